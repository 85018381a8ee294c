"""The caller's side: `BatchWriter` in workflows, `BatchClient` in programs."""
