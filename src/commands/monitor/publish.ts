/** Where metrics go: a port that Prometheus scrapes, or a file for a collector of text files. */
import { createServer, type Server } from "node:http";
import { resolve } from "node:path";
import { messageOf, UdmError, UsageError } from "../../errors/index.js";
import { replaceFile } from "../../io/index.js";

export interface Publisher {
  publish(text: string): void;
  /** What it is called when it is told: the address it listens on, or the file. */
  readonly where: string;
  close(): Promise<void>;
}

const ADDRESS = /^(?:\[([\da-fA-F:.]+)\]|([\w.-]*)):(\d{1,5})$/;
const MAX_PORT = 65535;
const REQUEST_MS = 10_000;

/** @param target `HOST:PORT`, `:PORT` for this machine only, or a file */
export async function publisherFor(target: string): Promise<Publisher> {
  const address = ADDRESS.exec(target);
  if (address === null) return filePublisher(resolve(target));
  const [, v6, name, port] = address;
  if (Number(port) > MAX_PORT) {
    throw new UsageError(`port ${port} is out of range`, { hint: `0 to ${MAX_PORT}` });
  }
  return listen(v6 ?? (name === undefined || name === "" ? "127.0.0.1" : name), Number(port));
}

function filePublisher(path: string): Publisher {
  return { where: path, publish: (text) => replaceFile(path, text), close: async () => undefined };
}

async function listen(host: string, port: number): Promise<Publisher> {
  let present = "";
  const server = createServer({ requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS }, (request, response) => {
    const isMetrics = request.url === "/metrics" || request.url?.startsWith("/metrics?") === true;
    const isRead = request.method === "GET" || request.method === "HEAD";
    const status = isMetrics ? (isRead ? 200 : 405) : 404;
    const body = status === 200 ? present : "metrics are at /metrics\n";
    response.writeHead(status, { "content-type": "text/plain; version=0.0.4; charset=utf-8" });
    response.end(request.method === "HEAD" ? "" : body);
  });
  server.maxConnections = 32;
  await started(server, host, port);
  const bound = server.address();
  const boundPort = typeof bound === "object" && bound !== null ? bound.port : port;
  return {
    where: `http://${host.includes(":") ? `[${host}]` : host}:${boundPort}/metrics`,
    publish: (text) => {
      present = text;
    },
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}

function started(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolveStart, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const code = error.code === "EACCES" ? "EACCES" : "EBUSY";
      reject(
        new UdmError(code, `cannot listen on ${host}:${port}: ${messageOf(error)}`, {
          hint: "choose another port, or the address of this machine",
          cause: error,
        }),
      );
    });
    server.listen({ host, port }, () => resolveStart());
  });
}
