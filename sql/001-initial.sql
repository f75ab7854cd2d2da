-- SPDX-License-Identifier: MIT
-- Schema version 1: the queue, what could not be delivered, and what the program remembers.
-- Applied in one transaction to an empty database; the program sets user_version with it.

-- One row a message, in the order in which they were accepted. `timestamp` is milliseconds since
-- the epoch, UTC. AUTOINCREMENT: an id is never used twice, whatever was deleted. Not IN with three
-- values: for each row SQLite would build a temporary b-tree of them.
CREATE TABLE queue (
	id INTEGER PRIMARY KEY AUTOINCREMENT,
	topic TEXT NOT NULL CHECK (typeof(topic) = 'text' AND topic <> ''),
	payload BLOB NOT NULL CHECK (typeof(payload) = 'blob'),
	qos INTEGER NOT NULL CHECK (qos = 0 OR qos = 1 OR qos = 2),
	retained BOOLEAN NOT NULL CHECK (retained IN (0, 1)),
	timestamp DATETIME NOT NULL CHECK (typeof(timestamp) = 'integer')
);

-- Messages that no broker takes, with the id they had in the queue.
CREATE TABLE dead_letters (
	id INTEGER PRIMARY KEY,
	topic TEXT NOT NULL CHECK (typeof(topic) = 'text' AND topic <> ''),
	payload BLOB NOT NULL CHECK (typeof(payload) = 'blob'),
	qos INTEGER NOT NULL CHECK (qos = 0 OR qos = 1 OR qos = 2),
	retained BOOLEAN NOT NULL CHECK (retained IN (0, 1)),
	timestamp DATETIME NOT NULL CHECK (typeof(timestamp) = 'integer'),
	reason TEXT NOT NULL CHECK (typeof(reason) = 'text'),
	died_at DATETIME NOT NULL CHECK (typeof(died_at) = 'integer')
);

-- queue_uuid: names this sequence of ids. queue_messages, dead_letters: exact numbers of rows, kept
-- by the transactions that change them. unclean_start: 1 while a process has the queue open.
-- "session CLIENT-ID": 'clean HOST:PORT' names the one broker whose session holds nothing of ours.
CREATE TABLE meta (
	key TEXT NOT NULL PRIMARY KEY,
	value NOT NULL
) WITHOUT ROWID;

INSERT INTO meta (key, value) VALUES
	('queue_uuid', lower(hex(randomblob(16)))),
	('queue_messages', 0),
	('dead_letters', 0),
	('unclean_start', 0);
INSERT INTO sqlite_sequence (name, seq) VALUES ('queue', 0);
