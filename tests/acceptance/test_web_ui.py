"""Temporal's Web UI, read in a browser: is a shard healthy, what does it do, why does it wait; where a write went."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from temporalio.client import Client
from tests.support.browser import Page, expect, needs_chromium, open_page
from tests.support.service import Service, entry, running

from temporal_batching import BatchPolicy, MemorySink, SinkUnavailable
from temporal_batching.testing.servers import FAST, temporal_server
from temporal_batching.web_ui import details_path

pytestmark = needs_chromium

COMPLAINT = "db.example:5432 `refused` <script>alert(1)</script> [a](javascript:b) | {workflowId}"
WITHIN = 30_000.0
"""Milliseconds for a page that is to show something; many tests may run at once."""


async def shows(page: Page, *texts: str) -> None:
    """The current details of the page, which are a document of their own, have these texts."""
    details = page.frame_locator("iframe[src*='%2A%2A'], iframe[src*='**']").last.locator("body")
    for text in texts:
        await expect(details).to_contain_text(text, timeout=WITHIN)


async def open_details(page: Page, web_ui: str, service: Service, workflow_id: str) -> None:
    described = await service.client.get_workflow_handle(workflow_id).describe()
    assert described.run_id is not None
    await page.goto(f"{web_ui}{details_path(service.client.namespace, workflow_id, described.run_id)}")


async def test_the_web_ui_answers_for_a_healthy_a_paused_and_an_unavailable_shard_and_a_caller_leads_to_it(
    tmp_path: Path,
) -> None:
    sink = MemorySink()
    policy = BatchPolicy(linger=timedelta(minutes=10), confirmation_timeout=timedelta(minutes=15))
    async with temporal_server(directory=tmp_path, port=0, ui_port=0, options=FAST) as server, open_page() as page:
        client = await Client.connect(server.address)
        longest = timedelta(minutes=10)
        async with running(client, sink, policy, longest_caller=longest) as service:
            shard = service.shard()
            caller = await service.start("activity", [entry(1), entry(2)], timeout=500.0, details="**Mine** stays.")
            await open_details(page, server.web_ui, service, caller.id)
            await shows(page, "Mine stays.", "2 wait for a confirmation", f"waits for the batcher {service.name}")

            await open_details(page, server.web_ui, service, shard.id)
            await shows(page, "Healthy. 2 requests wait; the next batch, retry or deadline is due at ", "linger 600 s")

            await service.handle.pause()
            await page.reload()
            await shows(page, "Paused: no flush starts until temporal-batching resume. 2 requests wait.")

            sink.fail_next(100, error=SinkUnavailable(COMPLAINT, in_doubt=False))
            await service.handle.resume()
            await shard.execute_update("control", {"flush": True})
            await page.reload()
            complaint = COMPLAINT.replace("{workflowId}", shard.id)  # the Web UI fills in what it finds in braces
            await shows(page, "Sink unavailable since 2", complaint)

            sink.stop_failing()
            confirmed = await caller.result()
            await open_details(page, server.web_ui, service, caller.id)
            await shows(page, "Mine stays.", "2 written", confirmed[0].batch_id)
            link = page.frame_locator("iframe").last.get_by_role("link", name=shard.id).first
            assert await link.get_attribute("href") == f"/namespaces/default/workflows/{shard.id}"
            await page.goto(f"{server.web_ui}/namespaces/default/workflows/{shard.id}")
            await expect(page.get_by_text(f"{confirmed[0].batch_id}: 2 requests, by manual").first).to_be_visible(
                timeout=WITHIN
            )
