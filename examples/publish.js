#!/usr/bin/env node
// SPDX-License-Identifier: MIT
// publish.js TOPIC: each line of standard input becomes a message; ends once all are on disk. Many
// are under way at a time: replies come in the order of their lines. Needs no packages.
'use strict';
const net = require('net'), readline = require('readline');
const path = process.env.MQTTGW_SOCKET || '/run/mqttgw.sock';
const LATER = ['queue-full', 'storage'];
let waiting = [], unanswered = [], later = []; // to be sent; sent; refused for now
let ended = false, gateway = null;

function send() {
  if (later.length && !unanswered.length) { // all others are answered: those first, after a while
    waiting = later.concat(waiting), later = [];
    return void setTimeout(send, 1000);
  }
  while (gateway && !later.length && waiting.length && unanswered.length < 100) {
    unanswered.push(waiting.shift());
    gateway.write(unanswered[unanswered.length - 1]);
  }
  if (waiting.length > 1000) input.pause(); else input.resume();
  if (ended && !waiting.length && !unanswered.length && !later.length) process.exit(0);
}

function connect() {
  const connection = net.connect(path, () => { gateway = connection, send(); });
  const replies = readline.createInterface({ input: connection }).on('line', (text) => {
    const reply = JSON.parse(text);
    if (['stopping', 'too-many-clients'].includes(reply.error)) return; // answers no line
    const line = unanswered.shift();
    if (LATER.includes(reply.error)) later.push(line);
    else if (reply.error) console.error('refused: ' + text), process.exit(1); // and would be again
    send();
  });
  for (const it of [connection, replies]) it.on('error', () => {}); // "close" follows
  connection.on('close', () => { // what has no answer was not accepted: again, in its order
    waiting = later.concat(unanswered, waiting), unanswered = [], later = [], gateway = null;
    setTimeout(connect, 1000);
  });
}

const input = readline.createInterface({ input: process.stdin });
input.on('line', (reading) => {
  waiting.push(JSON.stringify({ topic: process.argv[2], payload: reading, id: 1 }) + '\n'), send();
}).on('close', () => { ended = true, send(); });
connect();
