// Two implementations of RFC 9421 that are not ours read what Civibus seals,
// and sign what Civibus then reads.
//
//   node check.mjs [FILE]         verify the messages of FILE (default: the vectors)
//   node check.mjs --sign FILE    sign the jobs of FILE, print the signed messages as JSON
//
// Exit status 0: every message that Civibus accepts was accepted, and every
// altered one was refused, by each library that supports what it covers.
import { createHash, createPrivateKey, createPublicKey, sign, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import { httpbis } from "http-message-signatures";
import { component, createSignature, verifySignature } from "http-message-sig";

// Classes of failure that the signature or the digest alone must show. The
// others are rules of the profile, which these libraries do not know.
const altered = new Set(["altered_method", "altered_path", "altered_query", "altered_field", "removed_field", "altered_body",
  "truncated_body", "altered_parameter", "altered_components", "altered_status", "other_request", "altered_head", "altered_trailers", "bad_signature"]);

const lines = (fields, name) => (fields ?? []).filter(([n]) => n.toLowerCase() === name).map(([, v]) => v);
const algorithms = { ed25519: null, "ecdsa-p256-sha256": "sha256" };

function checker(key, alg) {
  return (data, signature) => alg in algorithms &&
    verify(algorithms[alg], Buffer.from(data), { key, dsaEncoding: "ieee-p1363" }, Buffer.from(signature));
}

function signer(key, alg) {
  return (data) => sign(algorithms[alg], Buffer.from(data), { key, dsaEncoding: "ieee-p1363" });
}

// digestFits compares the body with the Content-Digest that goes with it.
function digestFits(message) {
  const [value] = lines(message.trailers ?? message.fields, "content-digest");
  const body = Buffer.from(message.body ?? "", "base64");
  return value === `sha-256=:${createHash("sha256").update(body).digest("base64")}:`;
}

// headers is the form in which http-message-signatures takes fields.
function headers(fields) {
  const out = {};
  for (const [n, v] of fields) (out[n.toLowerCase()] ??= []).push(v);
  return out;
}

// inTrailers puts the seal proper of a streamed message where libraries look.
function inTrailers(m) {
  if (!m.trailers) return m;
  const seal = ([n]) => /^signature(-input)?$/i.test(n);
  return { ...m, fields: [...m.fields.filter((f) => !seal(f)), ...m.trailers.filter(seal)] };
}

const libraries = {
  "http-message-signatures": {
    trailers: true, // through componentParser
    message: (m) => m.status ? { status: m.status, headers: headers(m.fields) }
      : { method: m.method, url: `https://gateway.example${m.target}`, headers: headers(m.fields) },
    // It knows no trailers, but lets its user say where a component is.
    trailer: (m, request) => (name, params) => {
      if (!params.has("tr")) return null;
      const values = lines((params.has("req") ? request : m).trailers, name);
      if (values.length === 0) throw new Error(`no trailer ${name}`);
      if (!params.has("key")) return [values.join(", ")];
      const member = values.join(", ").split(", ").find((v) => v.startsWith(`${params.get("key")}=`));
      if (!member) throw new Error(`no member ${params.get("key")}`);
      return [member.slice(member.indexOf("=") + 1)];
    },
    async verify(m, request, keys, now) {
      return await httpbis.verifyMessage({
        componentParser: this.trailer(m, request),
        keyLookup: async ({ keyid, alg }) => keys[keyid] && keys[keyid].alg === alg
          ? { id: keyid, algs: [alg], verify: async (d, s) => checker(keys[keyid].key, alg)(d, s) } : null,
        notAfter: now + 60,
      }, this.message(inTrailers(m)), request && this.message(request)) === true;
    },
    async sign(job, key) {
      const out = await httpbis.signMessage({
        key: { id: job.keyid, alg: job.alg, sign: async (d) => signer(key, job.alg)(d) },
        name: "civibus", fields: job.components, params: ["created", ...(job.nonce ? ["nonce"] : []), "keyid", "alg", "tag"],
        paramValues: { created: new Date(job.created * 1000), nonce: job.nonce, tag: "civibus" },
      }, this.message(job.message), job.request && this.message(job.request));
      return [["Signature-Input", out.headers["Signature-Input"]], ["Signature", out.headers["Signature"]]];
    },
  },
  "http-message-sig": {
    trailers: false,
    message(m, request) {
      const list = (l) => (l ?? []).map(([name, value]) => ({ name, value }));
      return m.status
        ? { kind: "response", status: m.status, fields: list(m.fields), trailers: list(m.trailers), request: request && this.message(request) }
        : { kind: "request", method: m.method, targetUri: `https://gateway.example${m.target}`, requestTarget: m.target, fields: list(m.fields), trailers: list(m.trailers) };
    },
    async verify(m, request, keys, now) {
      await verifySignature(this.message(m, request), {
        label: "civibus",
        policy: { algorithms: Object.keys(algorithms), requiredComponents: [], requiredParameters: ["created", "keyid", "alg", "tag"], clockSkew: 60, now },
        resolveVerifier: ({ parameters }) => {
          const known = keys[parameters.keyid];
          if (!known) throw new Error("unknown key");
          return { algorithm: known.alg, verify: checker(known.key, known.alg) };
        },
      });
      return true;
    },
    async sign(job, key) {
      const out = await createSignature(this.message(job.message, job.request), {
        label: "civibus",
        components: job.components.map((c) => {
          const [name, ...parameters] = c.split(";");
          return component(name, Object.fromEntries(parameters.map((p) => {
            const [k, v] = p.split("=");
            return [k, v === undefined ? true : v.slice(1, -1)];
          })));
        }),
        parameters: { created: job.created, ...(job.nonce ? { nonce: job.nonce } : {}), keyid: job.keyid, alg: job.alg, tag: "civibus" },
        signer: { algorithm: job.alg, sign: signer(key, job.alg) },
      });
      return [["Signature-Input", out.signatureInput], ["Signature", out.signature]];
    },
  },
};

async function verdict(library, c, keys, now) {
  const message = c.response ?? c.request;
  try {
    return await library.verify(message, c.response && c.request, keys, now) && digestFits(message);
  } catch (error) {
    return false;
  }
}

async function verifyAll(file) {
  const set = JSON.parse(readFileSync(file, "utf8"));
  const keys = Object.fromEntries(Object.entries(set.keys).map(([id, spki]) => {
    const key = createPublicKey({ key: Buffer.from(spki, "base64"), format: "der", type: "spki" });
    return [id, { key, alg: key.asymmetricKeyType === "ed25519" ? "ed25519" : "ecdsa-p256-sha256" }];
  }));
  let wrong = 0;
  for (const [name, library] of Object.entries(libraries)) {
    const count = { accepted: 0, refused: 0, skipped: 0 };
    for (const c of set.cases) {
      const input = lines((c.response ?? c.request).trailers ?? (c.response ?? c.request).fields, "signature-input").join(", ");
      const streamed = (c.response ?? c.request).trailers || input.includes(";tr") || (c.response && c.request.trailers);
      // Trailers of another request are a good signature of their own: the profile refuses them.
      const profile = c.code && (!altered.has(c.failure) || c.name === "seal of another streamed request");
      if (profile || (streamed && !library.trailers)) { count.skipped++; continue; }
      const ok = await verdict(library, c, keys, set.now);
      if (ok !== !c.code) {
        wrong++;
        console.error(`${name}: ${c.response ? "response" : "request"} ${c.failure ?? ""} ${c.name}: ${ok ? "accepted" : "refused"}`);
      }
      count[ok ? "accepted" : "refused"]++;
    }
    if (count.accepted < 2) { wrong++; console.error(`${name}: too few cases`); }
    console.log(`${name}: ${count.accepted} accepted, ${count.refused} refused as altered, ${count.skipped} not for it`);
  }
  return wrong;
}

async function signAll(file) {
  const out = [];
  for (const [name, library] of Object.entries(libraries)) {
    for (const job of JSON.parse(readFileSync(file, "utf8"))) {
      const key = createPrivateKey({ key: Buffer.from(job.pkcs8, "base64"), format: "der", type: "pkcs8" });
      const message = { ...job.message, fields: [...job.message.fields, ...await library.sign(job, key)] };
      out.push({ library: name, message, request: job.request });
    }
  }
  console.log(JSON.stringify(out));
}

const args = process.argv.slice(2);
if (args[0] === "--sign") {
  await signAll(args[1]);
} else {
  const file = args[0] ?? new URL("../../spec/vectors/seal/messages.json", import.meta.url);
  process.exitCode = await verifyAll(file) === 0 ? 0 : 1;
}
