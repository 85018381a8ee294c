/**
 * A worker for the workflows. The batcher's activities are not here: they run on the batcher's own workers.
 *
 * With `MAX_CACHED_WORKFLOWS=0` in its environment it replays a workflow in each of its tasks, which shows at once what
 * is not deterministic: for tests.
 */

import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection, Worker } from '@temporalio/worker';

async function main(): Promise<void> {
  const { namespace, connectionOptions } = loadClientConnectConfig();
  const cached = process.env['MAX_CACHED_WORKFLOWS'];
  const connection = await NativeConnection.connect(connectionOptions);
  try {
    const worker = await Worker.create({
      connection,
      ...(namespace === undefined ? {} : { namespace }),
      taskQueue: 'orders',
      workflowsPath: require.resolve('./workflows'),
      ...(cached === undefined ? {} : { maxCachedWorkflows: Number(cached) }),
    });
    await worker.run();
  } finally {
    await connection.close();
  }
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
