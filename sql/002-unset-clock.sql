-- SPDX-License-Identifier: MIT
-- Schema version 2: which rows were stamped by a clock that nobody had set.

-- Each row is a run of queue rows, first_id to last_id, whose timestamp came from this machine's
-- clock in boot `boot_id`, while it was not known to be right and was `offset_msec` ahead of the
-- time since that boot. Once the clock is right, their timestamps are corrected from first_id on,
-- which moves with it; a run that is corrected goes.
CREATE TABLE unset_clock (
	first_id INTEGER PRIMARY KEY,
	last_id INTEGER NOT NULL CHECK (typeof(last_id) = 'integer'),
	boot_id TEXT NOT NULL CHECK (typeof(boot_id) = 'text'),
	offset_msec INTEGER NOT NULL CHECK (typeof(offset_msec) = 'integer')
);
