// The certified provider `oidc-provider`, with one machine as its client: node server.js PORT
// A line on standard input makes it sign with a new key, and forget the old one.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const requests = {};

function makeHandler() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  const key = { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "RS256" };
  const provider = new Provider(issuer, {
    jwks: { keys: [key] },
    clients: [
      {
        client_id: "machine",
        client_secret: "for-tests",
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      },
    ],
    scopes: ["orders:read", "orders:write"],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        // The resource `https://api.example/short` has tokens that expire after a second.
        getResourceServerInfo: (_context, resource) => ({
          audience: resource,
          scope: "orders:read orders:write",
          accessTokenFormat: "jwt",
          accessTokenTTL: resource.endsWith("/short") ? 1 : 600,
          jwt: { sign: { alg: "RS256" } },
        }),
      },
    },
  });
  return provider.callback();
}

let handle = makeHandler();

const server = createServer((request, response) => {
  if (request.url === "/requests") {
    response.end(JSON.stringify(requests));
    return;
  }
  requests[request.url] = (requests[request.url] ?? 0) + 1;
  handle(request, response);
});

createInterface({ input: process.stdin }).on("line", () => {
  handle = makeHandler();
  console.log("rotated");
});
server.listen(port, "127.0.0.1", () => console.log("ready"));
