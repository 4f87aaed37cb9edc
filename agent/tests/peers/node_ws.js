// A peer of the kernel tests: Node's `ws`. The module `support::peers` says what the file named on
// the command line asks for, and what is printed at the end.
//
// Frames are reported from the package's own codec, in the form that goes over the wire: compressed
// where permessage-deflate is on, automatic pongs and closing handshakes included.
'use strict';

const fs = require('node:fs');
const WebSocket = require('ws');

const NAMES = { 0: 'continuation', 1: 'text', 2: 'binary', 8: 'close', 9: 'ping', 10: 'pong' };

function entry(opcode, fin, rsv1, data) {
  const length = typeof data === 'string' ? Buffer.byteLength(data) : data.length;
  const noted = { opcode: NAMES[opcode], fin, rsv1, len: length };
  if (opcode >= 8) noted.payload = Buffer.from(data).toString('hex');
  return noted;
}

function note(codec, noted) {
  (codec.noted ??= []).push(noted);
}

// A frame is made by a function that knows no connection, and sent by one that knows no frame.
const { frame } = WebSocket.Sender;
WebSocket.Sender.frame = (data, options) => {
  const noted = entry(options.opcode, options.fin, Boolean(options.rsv1), data);
  return Object.assign(frame(data, options), { noted });
};
const { sendFrame } = WebSocket.Sender.prototype;
WebSocket.Sender.prototype.sendFrame = function (list, callback) {
  note(this, list.noted);
  return sendFrame.call(this, list, callback);
};

const { controlMessage, getData } = WebSocket.Receiver.prototype;
WebSocket.Receiver.prototype.controlMessage = function (data, callback) {
  note(this, entry(this._opcode, this._fin, false, data));
  return controlMessage.call(this, data, callback);
};
WebSocket.Receiver.prototype.getData = function (callback) {
  if (this._opcode < 8 && this._bufferedBytes >= this._payloadLength) {
    const opcode = this.within ? 0 : this._opcode;
    const rsv1 = !this.within && this._compressed;
    this.within = !this._fin;
    note(this, { opcode: NAMES[opcode], fin: this._fin, rsv1, len: this._payloadLength });
  }
  return getData.call(this, callback);
};

async function converse(socket, steps) {
  const messages = [];
  let arrived = () => {};
  socket.on('message', (data, binary) => {
    messages.push({ type: binary ? 'binary' : 'text', len: data.length });
    arrived();
  });
  // What breaks shows in the report: a connection that is reset says so before it is closed.
  socket.on('error', () => {});
  const closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  if (socket.readyState === WebSocket.CONNECTING) {
    await new Promise((resolve) => socket.on('open', resolve));
  }
  for (const step of steps) {
    if (step.do === 'await') {
      while (messages.length < step.messages) {
        await new Promise((resolve) => (arrived = resolve));
      }
    } else if (step.do === 'close') {
      socket.close(step.code, step.reason);
    } else if (step.do === 'drop') {
      socket.terminate();
    } else if (step.do === 'reset') {
      socket._socket.resetAndDestroy();
    } else {
      const payload = Buffer.from(step.payload, 'base64');
      await new Promise((resolve) => {
        if (step.opcode === 'ping') socket.ping(payload, undefined, resolve);
        else if (step.opcode === 'pong') socket.pong(payload, undefined, resolve);
        else socket.send(payload, { binary: step.opcode === 'binary', fin: step.fin }, resolve);
      });
    }
  }
  const close = await closed;
  const { noted: sent = [] } = socket._sender;
  const { noted: received = [] } = socket._receiver;
  return { sent, received, messages, close };
}

function server(job) {
  const waiting = new Map(Object.entries(job.conversations));
  const reports = {};
  return new Promise((resolve) => {
    const { host, port } = job;
    const listening = new WebSocket.Server({ host, port, perMessageDeflate: true });
    listening.on('listening', () => console.log('ready'));
    listening.on('connection', async (socket, request) => {
      const path = request.url;
      reports[path] = await converse(socket, waiting.get(path).steps);
      waiting.delete(path);
      if (waiting.size === 0) listening.close(() => resolve(reports));
    });
  });
}

/** The parameters of RFC 7692 under the names that the package has for them. */
function deflate(parameters) {
  if (parameters === null) return false;
  const names = Object.entries(parameters).map(([name, value]) => [
    name.replace(/_(.)/g, (_, letter) => letter.toUpperCase()),
    value,
  ]);
  return Object.fromEntries(names);
}

async function client(job) {
  console.log('ready');
  const one = async ([path, { to, deflate: parameters, steps }]) => {
    const socket = new WebSocket(`ws://${to}${path}`, { perMessageDeflate: deflate(parameters) });
    let extensions = '';
    socket.on('upgrade', (response) => {
      extensions = response.headers['sec-websocket-extensions'] ?? '';
    });
    return [path, { ...(await converse(socket, steps)), extensions }];
  };
  return Object.fromEntries(await Promise.all(Object.entries(job.conversations).map(one)));
}

async function main() {
  const job = JSON.parse(fs.readFileSync(process.argv[2], 'utf8'));
  const limit = setTimeout(() => {
    console.error(`not done within ${job.seconds} s`);
    process.exit(1);
  }, job.seconds * 1000);
  const reports = await { client, server }[job.role](job);
  clearTimeout(limit);
  console.log(JSON.stringify(reports));
}

main();
