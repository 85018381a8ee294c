/** Places an order by workflow, and writes one by itself from this program: `npm run order -- NUMBER`. */

import { Client, Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { BatchClient } from './batching/client';
import { placeOrder } from './workflows';

async function main(number: string): Promise<void> {
  const { namespace, connectionOptions } = loadClientConnectConfig();
  const connection = await Connection.connect(connectionOptions);
  try {
    const client = new Client({ connection, ...(namespace === undefined ? {} : { namespace }) });
    const order = { number, customer: 'c-1', lines: [{ article: 'a-7', price: '9.90' }] };
    const placed = await client.workflow.execute(placeOrder, {
      taskQueue: 'orders',
      workflowId: `order-${number}`,
      args: [order],
    });
    console.log(placed);

    const batcher = new BatchClient(client);
    const written = await batcher.writeAll(
      [{ table: 'orders', values: { number: `${number}-program`, customer: 'c-2' }, returning: ['id'] }],
      { requestId: `order-${number}-program` },
    );
    console.log(written.outcome, written.returned);
  } finally {
    await connection.close();
  }
}

main(process.argv[2] ?? '1').catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
