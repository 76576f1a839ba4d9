/** Certificates for TLS, in a folder with the names that NBD programs use. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { run } from "../../src/io/index.js";

/** An authority, a server and a client, as certtool makes them. */
export async function makeCertificates(folder: string): Promise<void> {
  const at = (name: string) => join(folder, name);
  const template = (name: string, lines: readonly string[]) => writeFileSync(at(name), `${lines.join("\n")}\n`);
  template("ca.info", ["cn = udm test", "ca", "cert_signing_key"]);
  template("server.info", [
    "cn = localhost",
    "dns_name = localhost",
    "tls_www_server",
    "encryption_key",
    "signing_key",
  ]);
  template("client.info", ["cn = client", "tls_www_client", "encryption_key", "signing_key"]);
  for (const who of ["ca", "server", "client"]) {
    await run("certtool", ["--generate-privkey", "--ecc", "--outfile", at(`${who}-key.pem`)]);
  }
  const common = ["--template", at("ca.info"), "--load-privkey", at("ca-key.pem"), "--outfile", at("ca-cert.pem")];
  await run("certtool", ["--generate-self-signed", ...common]);
  for (const who of ["server", "client"]) {
    await run("certtool", [
      "--generate-certificate",
      ...["--load-ca-certificate", at("ca-cert.pem"), "--load-ca-privkey", at("ca-key.pem")],
      ...["--load-privkey", at(`${who}-key.pem`), "--template", at(`${who}.info`), "--outfile", at(`${who}-cert.pem`)],
    ]);
  }
}
