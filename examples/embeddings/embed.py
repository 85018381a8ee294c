"""A workflow for each text. Its worker: python examples/embeddings/embed_worker.py"""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from temporal_batching import BatchWriter


@workflow.defn
class Embed:
    @workflow.run
    async def run(self, text: str) -> list[float]:
        confirmation = await BatchWriter("embeddings").write("small", {"text": text}, returning=["vector"])
        row = confirmation.returned[0] if confirmation.returned else None
        return list(row["vector"]) if row else []
