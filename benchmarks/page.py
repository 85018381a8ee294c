"""`report.html`: one page without network, drawn from the report."""

from __future__ import annotations

from html import escape

from benchmarks.plan import QUESTIONS
from benchmarks.report import NOTE, Report
from benchmarks.targets import VERDICTS

TITLE = "What batching costs and saves"
STYLE = """
:root { color-scheme: light dark; --ink: #1b1e23; --soft: #5d6470; --line: #d9dde3; --back: #fff; --good: #1d7a3a;
  --bad: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaee; --soft: #a3aab5; --line: #3a404a; --back: #16181d;
  --good: #6fcf8b; --bad: #ff8a80 } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 1.5rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--back); overflow-wrap: anywhere }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem }
nav { columns: 18rem; margin: 1rem 0 } nav a { display: block; color: inherit }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 1.5rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
svg { width: 100%; max-width: 560px; height: auto }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); overflow-wrap: normal }
th { vertical-align: bottom } td { white-space: nowrap }
th:first-child, td:first-child { text-align: left } .note { color: var(--soft); font-size: 14px }
.targets td { white-space: normal } .targets td:nth-child(2) { white-space: nowrap }
@media (max-width: 640px) { .targets tr { display: grid; grid-template-columns: 6.5rem 1fr 1fr; padding: .3rem 0;
  border-bottom: 1px solid var(--line) } .targets tr:first-child { display: none } .targets td { border: 0; padding: 0;
  text-align: left } .targets td:first-child { grid-column: 1 / -1 } }
.met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
"""


def render(report: Report) -> str:
    answers = {question: found for question in QUESTIONS if (found := question.answer(report))}
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{TITLE}</title><style>{STYLE}</style></head><body><h1>{TITLE}</h1>",
        "<nav>" + "".join(f"<a href='#{q.name}'>{escape(q.asks)}</a>" for q in answers) + "</nav>",
    ]
    if report.targets:
        parts.append(_targets(report))
    if report.failures:
        listed = "".join(f"<li><b>{escape(title)}</b> {escape(p)}</li>" for title, p in report.failures.items())
        parts.append(f"<h2>Failed or left out</h2><ul>{listed}</ul>")
    for question, pieces in answers.items():
        parts += [f"<h2 id='{question.name}'>{escape(question.asks)}</h2>", *pieces]
    machine = ", ".join(f"{name}: {value}" for name, value in report.machine.items())
    parts.append(f"<h2>Where it was measured</h2><p class='note'>{escape(machine)}</p><p class='note'>{NOTE}</p>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _targets(report: Report) -> str:
    style = {True: "met", False: "missed", None: "note"}
    lines = "".join(
        f"<tr><td>{escape(name)}</td><td class='{style[met]}'>{VERDICTS[met]}</td>"
        f"<td>{escape(measured)}</td><td>{escape(target)}</td></tr>"
        for name, target, measured, met in report.targets
    )
    heads = "<tr><th>figure</th><th></th><th>measured</th><th>target</th></tr>"
    return f"<h2>Targets</h2><div class='scroll'><table class='targets'>{heads}{lines}</table></div>"
