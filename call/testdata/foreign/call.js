// The base frames of docs/protocol.md, section "Call", on a bare TLS connection.
//
//   node call.js client HOST PORT PEER CERT KEY   calls math/add, math/count and more
//   node call.js server CERT KEY                  serves x/echo, x/count and x/slow
//
// PEER is the server's public key in hexadecimal. Node's standard library only.
'use strict';
const tls = require('node:tls');
const fs = require('node:fs');

const ALPN = 'alknet/call';
const SPKI_ED25519 = '302a300506032b6570032100'; // RFC 8410

// frames calls on for each frame that arrives on a socket.
function frames(socket, on) {
  let buffer = Buffer.alloc(0);
  socket.on('data', (chunk) => {
    buffer = Buffer.concat([buffer, chunk]);
    while (buffer.length >= 4 && buffer.length >= 4 + buffer.readUInt32BE(0)) {
      const end = 4 + buffer.readUInt32BE(0);
      const event = JSON.parse(buffer.subarray(4, end).toString('utf8'));
      buffer = buffer.subarray(end);
      on(event);
    }
  });
}

function write(socket, type, id, payload) {
  const body = Buffer.from(JSON.stringify({ type, id, payload }));
  const head = Buffer.alloc(4);
  head.writeUInt32BE(body.length);
  socket.write(Buffer.concat([head, body]));
}

class Client {
  constructor(socket) {
    this.socket = socket;
    this.next = 0;
    this.calls = new Map();
    frames(socket, (event) => {
      const call = this.calls.get(event.id);
      if (call) call(event);
    });
  }

  start(operation, input, on) {
    const id = `js-${++this.next}`;
    this.calls.set(id, on);
    write(this.socket, 'call.requested', id, { operationId: operation, input });
    return id;
  }

  // call resolves with the output of a query, or the items of a subscription.
  call(operation, input) {
    return new Promise((resolve, reject) => {
      const items = [];
      let pending;
      const id = this.start(operation, input, (event) => {
        const over = (settle, value) => {
          this.calls.delete(id);
          settle(value);
        };
        if (event.type === 'call.responded') {
          items.push(event.payload.output);
          // A query has one answer; that there is more shows at the next event.
          pending = setTimeout(() => over(resolve, items[0]), 50);
          if (items.length > 1) clearTimeout(pending);
        } else if (event.type === 'call.completed') {
          clearTimeout(pending);
          over(resolve, items);
        } else if (event.type === 'call.error') {
          over(reject, new Error(event.payload.code));
        }
      });
    });
  }

  abort(id) {
    write(this.socket, 'call.aborted', id, {});
  }
}

function dial(host, port, peer, cert, key) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({
      host, port: Number(port), ALPNProtocols: [ALPN], minVersion: 'TLSv1.3', rejectUnauthorized: false,
      cert: fs.readFileSync(cert), key: fs.readFileSync(key),
    }, () => {
      const raw = socket.getPeerCertificate(true).raw.toString('hex'); // the key is the identity, not a name
      if (socket.alpnProtocol !== ALPN || !raw.includes(SPKI_ED25519 + peer)) reject(new Error('somebody else answered'));
      else resolve(new Client(socket));
    });
    socket.on('error', reject);
  });
}

async function client(...args) {
  const c = await dial(...args);
  console.log('sum', await c.call('/math/add', { a: 2, b: 3 }));
  console.log('items', JSON.stringify(await c.call('math/count', 3)));
  await c.call('/math/none', null).catch((e) => console.log('error', e.message));
  await c.call('/math/add', { a: '2', b: 3 }).catch((e) => console.log('error', e.message));
  c.abort(c.start('/test/sleep', { ms: 60000 }, () => {}));
  console.log('unicode', (await c.call('test/echo', { text: 'héllo \u{1f600}' })).text);
  const list = await c.call('/services/list', {});
  console.log('names', JSON.stringify(list.operations.map((o) => o.name).filter((n) => n.startsWith('math/'))));
  c.socket.end();
}

function server(cert, key) {
  const listener = tls.createServer({
    ALPNProtocols: [ALPN], minVersion: 'TLSv1.3', cert: fs.readFileSync(cert), key: fs.readFileSync(key),
  }, (socket) => {
    socket.on('error', () => {});
    const slow = new Set();
    frames(socket, ({ type, id, payload }) => {
      if (type === 'call.aborted' && slow.delete(id)) console.log('aborted');
      if (type !== 'call.requested') return;
      const operation = payload.operationId.replace(/^\//, '');
      if (operation === 'x/echo') {
        write(socket, 'call.responded', id, { output: payload.input });
      } else if (operation === 'x/count') {
        for (let i = 1; i <= payload.input; i++) write(socket, 'call.responded', id, { output: i });
        write(socket, 'call.completed', id, {});
      } else if (operation === 'x/slow') {
        slow.add(id);
      } else {
        write(socket, 'call.error', id, { code: 'NOT_FOUND', message: `operation not found: ${operation}`, retryable: false });
      }
    });
  });
  listener.listen(0, '127.0.0.1', () => console.log('port', listener.address().port));
}

({ client, server })[process.argv[2]](...process.argv.slice(3));
