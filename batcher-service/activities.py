"""Where this batcher's activities write to.

The activities are the library's, and `BatcherPlugin` registers them: `batch_write` takes a write from a workflow,
`flush_batch` hands a batch to the sink, `deliver_confirmations` notifies callers whom no flush could notify. What a
service decides is the sink. One of your own goes here.
"""

from temporal_batching import ConsoleSink, Sink, SqlSink
from temporal_batching.service import BatcherSettings, prepare_database


async def open_sink(settings: BatcherSettings, *, create_tables: bool = False) -> Sink:
    """The console, or the database that `--sink` names, with the tables and limits of the settings."""
    if settings.sink_url() == "console":
        return ConsoleSink()
    await prepare_database(settings.sink_url(), create_tables=create_tables)
    return SqlSink(settings.sink_url(), **settings.sink_options())
