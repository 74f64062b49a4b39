// Prints the audits of GraphQL over HTTP, one a line as JSON: node audit.js URL
import { serverAudits } from "graphql-http";

for (const { id, name, fn } of serverAudits({ url: process.argv[2], fetchFn: fetch })) {
  const { status, reason } = await fn();
  console.log(JSON.stringify({ id, name, status, reason }));
}
