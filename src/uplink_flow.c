/* SPDX-License-Identifier: MIT */
/*
 * The uplink's messages: sends them while a connection stands, watches that they move, and says
 * what becomes of those nobody takes.
 *
 * Must not know how a connection comes about.
 */
#include <errno.h>
#include <stdio.h>

#include "uplink_internal.h"

#define READ_RETRY_USEC	   (1 * USEC_PER_SEC)
#define STALL_SAMPLES_USEC (1 * USEC_PER_SEC)

/* --- what cannot be delivered ---------------------------------------------------------------- */

static void on_condemned(void *userdata, uint64_t id, const char *reason)
{
	uplink_tell_condemned(userdata, id, reason);
}

static void on_held(void *userdata, uint64_t id, const char *reason)
{
	struct uplink *u = userdata;

	uplink_set_cause(
		u, "queue held: several messages in a row were refused, the last for: %s", reason);
	uplink_tell_held(u, id, reason);
	u->held = true;
	u->held_taken = drain_taken(u->drain);
	u->held_usec = now_boot_usec() + u->config->retry.set_aside_usec;
	uplink_arm(u->hold_timer, now_usec() + u->config->retry.set_aside_usec);
	uplink_post_status(u);
}

void uplink_release(struct uplink *u)
{
	uplink_arm(u->hold_timer, UINT64_MAX);
	if (!drain_is_held(u->drain))
		return;
	drain_release(u->drain);
	uplink_drain_turn(u);
}

static void see_whether_held(struct uplink *u)
{
	if (!u->held || drain_taken(u->drain) == u->held_taken)
		return;
	u->held = false;
	uplink_set_cause(u, "%s", "");
	uplink_tell_released(u);
	uplink_post_status(u);
}

/* --- sending --------------------------------------------------------------------------------- */

static int publish(void *userdata, const struct message *m, int *ret_mid, const char **ret_text)
{
	struct uplink *u = userdata;
	uint32_t expiry_sec = 0;

	if (u->max_age_usec > 0)
		expiry_sec = clock_seconds_left(&u->clock,
			(int64_t)(now_boot_usec() / USEC_PER_MSEC), m->timestamp, u->max_age_usec);
	return link_publish(u->link, m, expiry_sec, ret_mid, ret_text);
}

const struct drain_callbacks uplink_drain_callbacks = {
	.publish = publish,
	.condemned = on_condemned,
	.held = on_held,
};

void uplink_published(struct uplink *u, uint16_t mid, unsigned reason)
{
	enum failure_verdict verdict = failure_of_publish(reason);
	char text[80] = "";
	uint64_t id;

	if (verdict != FAILURE_MESSAGE_TAKEN)
		snprintf(text, sizeof(text), "broker answered with reason code 0x%02x: %s", reason,
			mqtt_reason_to_string(reason));
	id = drain_published(u->drain, mid, verdict, text);
	if (verdict == FAILURE_MESSAGE_CONFUSED && u->trouble.class == FAILURE_NONE) {
		failure_set(&u->trouble, FAILURE_HEARTBEAT, "message %llu: %s",
			(unsigned long long)id, text);
		link_give_up_session(u->link);
	}
}

void uplink_take_trouble(struct uplink *u)
{
	enum failure_class class = u->trouble.class;

	if (class == FAILURE_NONE)
		return;
	uplink_set_cause(u, "%s", u->trouble.text);
	u->trouble.class = FAILURE_NONE;
	u->lost_by_peer = false;
	uplink_handle(u, SUPERVISOR_FAILURE, class);
}

static void note_reading(struct uplink *u, int error)
{
	if (u->read_error == error)
		return;
	u->read_error = error;
	uplink_update_figures(u);
}

static void retry_reading(struct uplink *u)
{
	/* The reader has logged it. The disk may come back. */
	uplink_arm(u->read_retry, now_usec() + READ_RETRY_USEC);
}

static void pump(struct uplink *u)
{
	int r;

	/* Before any row is read: once the gateway tells of a clock, no timestamp is wrong. */
	mailbox_clock(u->mailbox, &u->clock, &u->max_age_usec);
	r = drain_pump(u->drain);
	note_reading(u, r < 0 ? r : 0);
	if (r > 0)
		sd_event_source_set_enabled(u->pump, SD_EVENT_ONESHOT);
	else if (r == -EUCLEAN)
		mailbox_post_rotten(u->mailbox);
	else if (r < 0)
		retry_reading(u);
	else
		uplink_arm(u->wake, drain_wake_usec(u->drain));
}

static struct stall_sample sample(const struct uplink *u)
{
	struct mqtt_progress p;

	link_get_progress(u->link, &p);
	return (struct stall_sample){
		.taken = drain_taken(u->drain),
		.acked_bytes = p.acked_bytes,
		.unsent = p.unsent,
	};
}

/* Also bytes that nobody will acknowledge with a message: QoS 0, PINGREQ. */
static bool is_waiting(const struct uplink *u, const struct stall_sample *s)
{
	return drain_inflight(u->drain) > 0 || link_is_busy(u->link) || s->unsent;
}

static void arm_stall(struct uplink *u)
{
	uint64_t often = u->config->mqtt.ack_timeout_usec / 4;

	uplink_arm(u->stall_timer, now_usec() + u64_min(often, STALL_SAMPLES_USEC));
}

/* While something is on its way, it is looked at every now and then; an idle connection is not. */
static void watch_stall(struct uplink *u)
{
	struct stall_sample s;

	if (u->stall_watched)
		return;
	s = sample(u);
	if (!is_waiting(u, &s))
		return;
	stall_begin(&u->stall, &s, now_usec());
	u->stall_watched = true;
	arm_stall(u);
}

void uplink_check_stall(struct uplink *u)
{
	struct stall_sample s;
	uint64_t stalled;

	u->stall_watched = false;
	if (!link_is_up(u->link))
		return;
	s = sample(u);
	if (!is_waiting(u, &s))
		return;
	stalled = stall_check(&u->stall, &s, now_usec());
	if (stalled >= u->config->mqtt.ack_timeout_usec) {
		uplink_set_cause(u,
			"no acknowledgement and no byte taken by the broker for %.1f s, with %u "
			"messages in flight",
			(double)stalled / (double)USEC_PER_SEC, drain_inflight(u->drain));
		u->lost_by_peer = drain_passed_over(u->drain);
		uplink_handle(u, SUPERVISOR_FAILURE, FAILURE_HEARTBEAT);
		return;
	}
	/* One message that is never answered must not hold up those behind it. */
	if (stalled >= u->config->mqtt.ack_timeout_usec / 2 && drain_wait_no_more(u->drain))
		sd_event_source_set_enabled(u->pump, SD_EVENT_ONESHOT);
	u->stall_watched = true;
	arm_stall(u);
}

void uplink_drain_turn(struct uplink *u)
{
	if (u->supervisor.state == SUPERVISOR_CONNECTED && link_is_up(u->link) &&
		u->trouble.class == FAILURE_NONE)
		pump(u);
	else
		drain_flush(u->drain);
	if (u->trouble.class != FAILURE_NONE)
		sd_event_source_set_enabled(u->conclude, SD_EVENT_ONESHOT);
	if (u->link && link_is_up(u->link))
		watch_stall(u);
	see_whether_held(u);
	uplink_tell_steady(u);
	/* Each event of the connection counts first; with an answer to come there will be one. */
	if (drain_inflight_session(u->drain) == 0)
		link_count_traffic(u->link);
	uplink_count_traffic(u);
	uplink_leave_if_idle(u);
}
