/* SPDX-License-Identifier: MIT */
/*
 * Tests of the JSON Lines protocol: what is accepted and as what, what is refused and how that is
 * told, and the exact replies.
 */
#include <jansson.h>
#include <stdio.h>

#include "frame_json.h"
#include "suites.h"

#define DEFAULT_QOS 1
#define NOW	    INT64_C(1700000000000)

/* A string literal with its length, which may hold NUL. */
#define L(s) s, sizeof(s) - 1

static struct frame_json *parser;

static void setup(void)
{
	ck_assert_int_eq(frame_json_new(&parser), 0);
}

static void teardown(void)
{
	parser = frame_json_free(parser);
	ck_assert_ptr_null(parser);
}

/* From a copy of the exact size, so that sanitizers see a read past the end. */
static enum frame_error parse(const char *line, size_t len, struct frame *ret)
{
	static char *copy;

	free(copy);
	copy = malloc(len + !len);
	memcpy(copy, line, len);
	return frame_json_parse(parser, copy, len, DEFAULT_QOS, NOW, ret);
}

static const struct {
	const char *line;
	size_t len;
	const char *topic;
	const char *payload;
	size_t payload_len;
	const char *id; /* NULL: none */
	int64_t timestamp; /* 0: NOW */
	uint8_t qos;
	bool retain;
} good[] = {
	{ L("{\"topic\":\"a\"}"), "a", L(""), NULL, 0, 1, false },
	{ L("{\"topic\":\"a/b\",\"payload\":\"x\",\"qos\":2,\"retain\":true,\"timestamp\":5,"
	    "\"id\":7}"),
		"a/b", L("x"), "7", 5, 2, true },
	{ L("{\"id\":\"x-1\",\"retain\":false,\"qos\":0,\"payload\":\"\",\"topic\":\"a\"}"), "a",
		L(""), "\"x-1\"", 0, 0, false },
	{ L(" \t{ \"topic\" : \"a\" ,\t\"payload\" : [ 1 , 2 ] , \"id\" : -1.5e3 } \r"), "a",
		L("[ 1 , 2 ]"), "-1.5e3", 0, 1, false },
	{ L("{\"topic\":\"a\",\"timestamp\":9223372036854775807}"), "a", L(""), NULL, INT64_MAX, 1,
		false },
	/* payloads: strings */
	{ L("{\"topic\":\"a\",\"payload\":\"tab\\tnl\\nq\\\"b\\\\s\\/\\b\\f\\r\"}"), "a",
		L("tab\tnl\nq\"b\\s/\b\f\r"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":\"a\\u0000b\\u0000\"}"), "a", L("a\0b\0"), NULL, 0, 1,
		false },
	{ L("{\"topic\":\"a\",\"payload\":\"\\u00e9\\u20AC\\ud83C\\uDf21\\uffff\\u007f\"}"), "a",
		L("\xc3\xa9\xe2\x82\xac\xf0\x9f\x8c\xa1\xef\xbf\xbf\x7f"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":\"\\uDBFF\\uDFFF\\u0800\\u07ff\\u0080\"}"), "a",
		L("\xf4\x8f\xbf\xbf\xe0\xa0\x80\xdf\xbf\xc2\x80"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":\"\xe2\x82\xac \xf0\x9f\x8c\xa1 \x7f\"}"), "a",
		L("\xe2\x82\xac \xf0\x9f\x8c\xa1 \x7f"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":\"\xe2\x82\xac\\n\"}"), "a", L("\xe2\x82\xac\n"), NULL, 0,
		1, false },
	{ L("{\"topic\":\"a\",\"payload\":\"\\\\u0000\"}"), "a", L("\\u0000"), NULL, 0, 1, false },
	/* payloads: everything else, as it stands */
	{ L("{\"topic\":\"a\",\"payload\":null}"), "a", L(""), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":true}"), "a", L("true"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":false }"), "a", L("false"), NULL, 0, 1, false },
	{ L("{\"payload\":-0,\"topic\":\"a\"}"), "a", L("-0"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":1.50}"), "a", L("1.50"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":1E+2\t}"), "a", L("1E+2"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":{}}"), "a", L("{}"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":{ \"b\" : [ ] , \"a\":\"\\u00e9}]\\\"{\" } }"), "a",
		L("{ \"b\" : [ ] , \"a\":\"\\u00e9}]\\\"{\" }"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":{\"x\":1,\"x\":2,\"topic\":3,\"topic\":4}}"), "a",
		L("{\"x\":1,\"x\":2,\"topic\":3,\"topic\":4}"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":[[],{\"\":[{}]},\"]\"]}"), "a",
		L("[[],{\"\":[{}]},\"]\"]"), NULL, 0, 1, false },
	/* numbers without bounds, U+0000 in keys: JSON all the same */
	{ L("{\"topic\":\"a\",\"payload\":1e999}"), "a", L("1e999"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload\":[-123456789012345678901234567890,1e-999,0.1E+4000]}"),
		"a", L("[-123456789012345678901234567890,1e-999,0.1E+4000]"), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"id\":123456789012345678901234567890}"), "a", L(""),
		"123456789012345678901234567890", 0, 1, false },
	{ L("{\"topic\":\"a\",\"id\":-1e999,\"payload\":\"1e999\"}"), "a", L("1e999"), "-1e999", 0,
		1, false },
	{ L("{\"topic\":\"a\",\"payload\":{\"k\\u0000\":\"\\u0000\"}}"), "a",
		L("{\"k\\u0000\":\"\\u0000\"}"), NULL, 0, 1, false },
	/* payload_base64 */
	{ L("{\"topic\":\"a\",\"payload_base64\":\"\"}"), "a", L(""), NULL, 0, 1, false },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"AAD/\"}"), "a", L("\0\0\xff"), NULL, 0, 1,
		false },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"\\/\\/\\u0038=\"}"), "a", L("\xff\xff"), NULL, 0,
		1, false },
	/* escaped keys and topics */
	{ L("{\"\\u0074opic\":\"\\u0061\\/b\",\"\\u0069\\u0064\":1,\"paylo\\u0061d\":2}"), "a/b",
		L("2"), "1", 0, 1, false },
	{ L("{\"\\u0070\\u0061\\u0079\\u006c\\u006F\\u0061\\u0064\\u005f\\u0062\\u0061\\u0073\\u006"
	    "5"
	    "\\u0036\\u0034\":\"Zm9v\",\"topic\":\"a\"}"),
		"a", L("foo"), NULL, 0, 1, false },
	{ L("{\"topic\":\"gr\xc3\xb6\xc3\x9f"
	    "e/\\u20ac\"}"),
		"gr\xc3\xb6\xc3\x9f"
		"e/\xe2\x82\xac",
		L(""), NULL, 0, 1, false },
	/* ids are echoed as written */
	{ L("{\"topic\":\"a\",\"id\":\"\\u0041\\\"\\n\"}"), "a", L(""), "\"\\u0041\\\"\\n\"", 0, 1,
		false },
	{ L("{\"topic\":\"a\",\"id\":\"\"}"), "a", L(""), "\"\"", 0, 1, false },
	{ L("{\"topic\":\"a\",\"id\":1.0}"), "a", L(""), "1.0", 0, 1, false },
};

START_TEST(test_good)
{
	const struct message *m;
	struct frame frame;
	enum frame_error error = parse(good[_i].line, good[_i].len, &frame);

	ck_assert_msg(!error, "%s: %s: %s", good[_i].line, frame_error_to_string(error),
		frame.error_text);
	ck_assert_ptr_null(frame.error_text);
	m = &frame.message;
	ck_assert_uint_eq(m->id, 0);
	ck_assert_str_eq(m->topic, good[_i].topic);
	ck_assert_uint_eq(m->topic_len, strlen(good[_i].topic));
	ck_assert_uint_eq(m->payload_len, good[_i].payload_len);
	if (m->payload_len > 0)
		ck_assert_mem_eq(m->payload, good[_i].payload, m->payload_len);
	ck_assert_uint_eq(m->qos, good[_i].qos);
	ck_assert(m->retain == good[_i].retain);
	ck_assert_int_eq(m->timestamp, good[_i].timestamp ? good[_i].timestamp : NOW);
	ck_assert(m->own_timestamp == (good[_i].timestamp != 0));

	if (!good[_i].id) {
		ck_assert_ptr_null(frame.id);
		return;
	}
	ck_assert_uint_eq(frame.id_len, strlen(good[_i].id));
	ck_assert_mem_eq(frame.id, good[_i].id, frame.id_len);
}
END_TEST

#define UNKNOWN_TAIL ", must be one of topic, payload, payload_base64, qos, retain, timestamp, id"
#define STAMP_TAIL \
	", must be an integer from 0 to 9223372036854775807 (milliseconds since the epoch)"
#define NO_BASE64 "payload_base64 is not base64, must be as RFC 4648, section 4, padded"

static const struct {
	const char *line;
	size_t len;
	enum frame_error error;
	const char *text; /* all of it */
	const char *id;
} bad[] = {
	/* not an object */
	{ L(""), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("[]"), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("\"topic\""), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("7"), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("GET / HTTP/1.1"), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("\xef\xbb\xbf{\"topic\":\"a\"}"), FRAME_BAD_JSON, "line is not a JSON object" },
	{ L("\0{}"), FRAME_BAD_JSON, "line is not a JSON object" },
	/* not JSON; columns are those of the line, whatever stands before */
	{ L("{\"topic\":\"a\",\"id\":1"), FRAME_BAD_JSON,
		"column 19: '}' expected near end of file" },
	{ L("{\"topic\":\"a\",\"id\":1,}"), FRAME_BAD_JSON,
		"column 21: string or '}' expected near '}'" },
	{ L("{\"topic\":\"a\"}x"), FRAME_BAD_JSON, "column 14: end of file expected near 'x'" },
	{ L("{\"topic\":\"a\"}{}"), FRAME_BAD_JSON, "column 14: end of file expected near '{'" },
	{ L("{\"topic\":NaN}"), FRAME_BAD_JSON, "column 12: invalid token near 'NaN'" },
	{ L("{\"topic\":\"a\",\"payload\":[1e999,-Infinity]}"), FRAME_BAD_JSON,
		"column 31: invalid token near '-'" },
	{ L("{\"topic\":\"a\",\"payload\":[1e999 52]}"), FRAME_BAD_JSON,
		"column 32: ']' expected near '52'" },
	{ L("{\"topic\":\"a\",\"payload\":012}"), FRAME_BAD_JSON,
		"column 24: invalid token near '0'" },
	{ L("{\"topic\":\"a\",\"payload\":1.}"), FRAME_BAD_JSON,
		"column 25: invalid token near '1.'" },
	{ L("{\"topic\":\"a\",\"payload\":+1}"), FRAME_BAD_JSON,
		"column 24: invalid token near '+'" },
	{ L("{\"topic\":\"a\",\"payload\":True}"), FRAME_BAD_JSON,
		"column 27: invalid token near 'True'" },
	{ L("{'topic':'a'}"), FRAME_BAD_JSON, "column 2: string or '}' expected near '''" },
	{ L("{\"topic\":\"a\nb\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\tb\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\x1f\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\\x\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\\u12g4\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\\u12\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\\"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\\u"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a"), FRAME_BAD_JSON, NULL },
	{ L("{\""), FRAME_BAD_JSON, NULL },
	{ L("{"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\\ud800\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\\ud800x\\udc00\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\\udc00\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\\ud800\\u0041\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":{\"\\ud800\":1}}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\xff\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\xc0\x80\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\xed\xa0\x80\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\xe2\x82\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"\xc3x\xa9\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\"}\xff"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\"}\xc3"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":1\0}"), FRAME_BAD_JSON, "byte 25 is NUL" },
	{ L("{\"topic\":\"a\0\"}"), FRAME_BAD_JSON, "byte 12 is NUL" },
	{ L("{\"topic\":\"a\",\"payload\":1e9991e999}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":01e999}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":1e999x}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":1e999 1}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":--1}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":\"a\"\"b\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\" \"a\"}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\" \"id\":1}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\"payload\":[1,2}}"), FRAME_BAD_JSON, NULL },
	{ L("{1:2}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\"/**/}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\v\"id\":1}"), FRAME_BAD_JSON, NULL },
	{ L("{\"topic\":\"a\",\xc2\xa0\"id\":1}"), FRAME_BAD_JSON, NULL },
	/* keys */
	{ L("{\"topic\":\"a\",\"qoss\":1}"), FRAME_BAD_FIELD, "unknown key \"qoss\"" UNKNOWN_TAIL },
	{ L("{\"qoss\":{\"id\":2},\"x\":1,\"id\":1}"), FRAME_BAD_FIELD,
		"unknown key \"qoss\"" UNKNOWN_TAIL, "1" },
	{ L("{\"Topic\":\"a\",\"id\":\"x\"}"), FRAME_BAD_FIELD,
		"unknown key \"Topic\"" UNKNOWN_TAIL, "\"x\"" },
	{ L("{\"\":\"a\"}"), FRAME_BAD_FIELD, "unknown key \"\"" UNKNOWN_TAIL },
	{ L("{\"t\\u00f6pic\":1}"), FRAME_BAD_FIELD, "unknown key \"t\\u00f6pic\"" UNKNOWN_TAIL },
	{ L("{\"t\xc3\xb6\x7fpic\":1}"), FRAME_BAD_FIELD, "unknown key \"t??pic\"" UNKNOWN_TAIL },
	{ L("{\"topic\\u0000\":\"a\"}"), FRAME_BAD_FIELD,
		"unknown key \"topic\\u0000\"" UNKNOWN_TAIL },
	{ L("{\"topic\\b\":\"a\"}"), FRAME_BAD_FIELD, "unknown key \"topic\\b\"" UNKNOWN_TAIL },
	{ L("{\"0123456789012345678901234567890123456789\":1}"), FRAME_BAD_FIELD,
		"unknown key \"0123456789012345678901234567890123456789\"" UNKNOWN_TAIL },
	{ L("{\"01234567890123456789012345678901234567890\":1,\"id\":3}"), FRAME_BAD_FIELD,
		"unknown key \"0123456789012345678901234567890123456789...\"" UNKNOWN_TAIL, "3" },
	{ L("{\"topic\":\"a\",\"topic\":\"a\",\"id\":3}"), FRAME_BAD_FIELD,
		"key \"topic\" is given twice", "3" },
	{ L("{\"topic\":\"a\",\"id\":3,\"\\u0074opic\":\"b\"}"), FRAME_BAD_FIELD,
		"key \"topic\" is given twice", "3" },
	{ L("{\"topic\":\"a\",\"retain\":true,\"retain\":true,\"retain\":true}"), FRAME_BAD_FIELD,
		"key \"retain\" is given twice" },
	{ L("{\"id\":1,\"topic\":\"a\",\"id\":1}"), FRAME_BAD_FIELD, "key \"id\" is given twice" },
	{ L("{\"id\":1,\"topic\":\"a\",\"id\":2,\"id\":3}"), FRAME_BAD_FIELD,
		"key \"id\" is given twice" },
	{ L("{\"topic\":\"a\",\"payload\":1,\"payload_base64\":\"\",\"id\":1}"), FRAME_BAD_FIELD,
		"payload and payload_base64 are both given, must be one of them", "1" },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"\",\"payload\":null}"), FRAME_BAD_FIELD,
		"payload and payload_base64 are both given, must be one of them" },
	/* id */
	{ L("{\"topic\":\"a\",\"id\":null}"), FRAME_BAD_FIELD,
		"id is null, must be a string or a number" },
	{ L("{\"topic\":\"a\",\"id\":true}"), FRAME_BAD_FIELD,
		"id is true, must be a string or a number" },
	{ L("{\"id\":[7],\"topic\":\"+\"}"), FRAME_BAD_FIELD,
		"id is [7], must be a string or a number" },
	{ L("{\"topic\":\"a\",\"id\":{}}"), FRAME_BAD_FIELD,
		"id is {}, must be a string or a number" },
	/* topic */
	{ L("{}"), FRAME_BAD_TOPIC, "topic is missing, must be a string" },
	{ L(" { } \r"), FRAME_BAD_TOPIC, "topic is missing, must be a string" },
	{ L("{\"id\":1}"), FRAME_BAD_TOPIC, "topic is missing, must be a string", "1" },
	{ L("{\"topic\":null,\"id\":1}"), FRAME_BAD_TOPIC, "topic is null, must be a string", "1" },
	{ L("{\"topic\":[\"a\"]}"), FRAME_BAD_TOPIC, "topic is [\"a\"], must be a string" },
	{ L("{\"topic\":\"\"}"), FRAME_BAD_TOPIC, "topic is empty, must be 1 to 65535 bytes" },
	{ L("{\"topic\":\"a/#\",\"id\":8}"), FRAME_BAD_TOPIC, "topic holds a wildcard", "8" },
	{ L("{\"topic\":\"a/\\u002B\",\"id\":8}"), FRAME_BAD_TOPIC, "topic holds a wildcard", "8" },
	{ L("{\"topic\":\"a\\u0000\"}"), FRAME_BAD_TOPIC, "topic holds U+0000" },
	{ L("{\"topic\":\"a\\n\"}"), FRAME_BAD_TOPIC, "topic holds a control character" },
	{ L("{\"topic\":\"\xc2\x80\"}"), FRAME_BAD_TOPIC, "topic holds a control character" },
	{ L("{\"topic\":\"\\uffff\"}"), FRAME_BAD_TOPIC, "topic holds a Unicode non-character" },
	/* payload_base64 */
	{ L("{\"topic\":\"a\",\"payload_base64\":7,\"id\":1}"), FRAME_BAD_PAYLOAD,
		"payload_base64 is 7, must be a string", "1" },
	{ L("{\"topic\":\"a\",\"payload_base64\":null}"), FRAME_BAD_PAYLOAD,
		"payload_base64 is null, must be a string" },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"Zg\",\"id\":1}"), FRAME_BAD_PAYLOAD, NO_BASE64,
		"1" },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"Zg==\\n\"}"), FRAME_BAD_PAYLOAD, NO_BASE64 },
	{ L("{\"topic\":\"a\",\"payload_base64\":\"\\u0000\\u0000\\u0000\\u0000\"}"),
		FRAME_BAD_PAYLOAD, NO_BASE64 },
	/* qos */
	{ L("{\"topic\":\"a\",\"qos\":3,\"id\":1}"), FRAME_BAD_QOS, "qos is 3, must be 0, 1 or 2",
		"1" },
	{ L("{\"topic\":\"a\",\"qos\":-1}"), FRAME_BAD_QOS, "qos is -1, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":1.0}"), FRAME_BAD_QOS, "qos is 1.0, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":10}"), FRAME_BAD_QOS, "qos is 10, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":1e0}"), FRAME_BAD_QOS, "qos is 1e0, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":true}"), FRAME_BAD_QOS, "qos is true, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":null}"), FRAME_BAD_QOS, "qos is null, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":\"1\"}"), FRAME_BAD_QOS, "qos is \"1\", must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":1e999}"), FRAME_BAD_QOS, "qos is 1e999, must be 0, 1 or 2" },
	{ L("{\"topic\":\"a\",\"qos\":111111111111111111111111111111111111111111}"), FRAME_BAD_QOS,
		"qos is 1111111111111111111111111111111111111111..., must be 0, 1 or 2" },
	/* retain */
	{ L("{\"topic\":\"a\",\"retain\":1,\"id\":1}"), FRAME_BAD_FIELD,
		"retain is 1, must be true or false", "1" },
	{ L("{\"topic\":\"a\",\"retain\":null}"), FRAME_BAD_FIELD,
		"retain is null, must be true or false" },
	{ L("{\"topic\":\"a\",\"retain\":\"true\"}"), FRAME_BAD_FIELD,
		"retain is \"true\", must be true or false" },
	/* timestamp */
	{ L("{\"topic\":\"a\",\"timestamp\":-1,\"id\":1}"), FRAME_BAD_FIELD,
		"timestamp is -1" STAMP_TAIL, "1" },
	{ L("{\"topic\":\"a\",\"timestamp\":1.5}"), FRAME_BAD_FIELD,
		"timestamp is 1.5" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":1e3}"), FRAME_BAD_FIELD,
		"timestamp is 1e3" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":\"1\"}"), FRAME_BAD_FIELD,
		"timestamp is \"1\"" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":false}"), FRAME_BAD_FIELD,
		"timestamp is false" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":null}"), FRAME_BAD_FIELD,
		"timestamp is null" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":9223372036854775808}"), FRAME_BAD_FIELD,
		"timestamp is 9223372036854775808" STAMP_TAIL },
	{ L("{\"topic\":\"a\",\"timestamp\":92233720368547758070,\"id\":1}"), FRAME_BAD_FIELD,
		"timestamp is 92233720368547758070" STAMP_TAIL, "1" },
};

START_TEST(test_bad)
{
	struct frame frame;
	enum frame_error error = parse(bad[_i].line, bad[_i].len, &frame);

	ck_assert_msg(error == bad[_i].error, "%s: %s, %s", bad[_i].line,
		frame_error_to_string(error), frame.error_text);
	ck_assert_ptr_nonnull(frame.error_text);
	ck_assert_uint_lt(strlen(frame.error_text), 200);
	if (bad[_i].text)
		ck_assert_str_eq(frame.error_text, bad[_i].text);
	else
		ck_assert_ptr_eq(strstr(frame.error_text, "column "), frame.error_text);
	if (!bad[_i].id) {
		ck_assert_ptr_null(frame.id);
		return;
	}
	ck_assert_ptr_nonnull(frame.id);
	ck_assert_uint_eq(frame.id_len, strlen(bad[_i].id));
	ck_assert_mem_eq(frame.id, bad[_i].id, frame.id_len);
}
END_TEST

/* One parser reads everything, good and bad by turns, and says the same as a fresh one. */
START_TEST(test_lines_leave_no_trace)
{
	for (size_t i = 0; i < ARRAY_SIZE(bad) * ARRAY_SIZE(good); i++) {
		size_t b = i % ARRAY_SIZE(bad), g = i / ARRAY_SIZE(bad);
		struct frame frame;

		ck_assert_int_eq(parse(bad[b].line, bad[b].len, &frame), bad[b].error);
		ck_assert_int_eq(parse(good[g].line, good[g].len, &frame), FRAME_OK);
		ck_assert_str_eq(frame.message.topic, good[g].topic);
		ck_assert_uint_eq(frame.message.payload_len, good[g].payload_len);
		if (frame.message.payload_len > 0)
			ck_assert_mem_eq(
				frame.message.payload, good[g].payload, frame.message.payload_len);
	}
}
END_TEST

/* No line cut short is accepted, none is read past its end. */
START_TEST(test_truncated_lines)
{
	struct frame frame;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		size_t len = good[i].len;

		while (good[i].line[len - 1] != '}')
			len--;
		while (len-- > 0)
			ck_assert_int_eq(parse(good[i].line, len, &frame), FRAME_BAD_JSON);
	}
}
END_TEST

/* Each single byte changed to each value: no crash, and an answer that fits the rules. */
START_TEST(test_changed_lines)
{
	size_t len = good[_i].len;
	struct frame frame;
	char line[512];

	ck_assert_uint_le(len, sizeof(line));
	for (size_t i = 0; i < len; i++) {
		memcpy(line, good[_i].line, len);
		for (unsigned c = 0; c < 256; c++) {
			enum frame_error error;

			line[i] = (char)c;
			error = parse(line, len, &frame);
			ck_assert_int_le(error, FRAME_BAD_FIELD);
			ck_assert((error == FRAME_OK) == (frame.error_text == NULL));
			if (error == FRAME_BAD_JSON)
				ck_assert_ptr_null(frame.id);
		}
	}
}
END_TEST

START_TEST(test_default_qos)
{
	static const char line[] = "{\"topic\":\"a\"}", own[] = "{\"topic\":\"a\",\"qos\":1}";
	struct frame frame;

	for (uint8_t qos = 0; qos <= 2; qos++) {
		ck_assert_int_eq(
			frame_json_parse(parser, line, strlen(line), qos, 42, &frame), FRAME_OK);
		ck_assert_uint_eq(frame.message.qos, qos);
		ck_assert_int_eq(frame.message.timestamp, 42);
		ck_assert_int_eq(
			frame_json_parse(parser, own, strlen(own), qos, 42, &frame), FRAME_OK);
		ck_assert_uint_eq(frame.message.qos, 1);
	}
}
END_TEST

static const struct {
	const char *line;
	bool blank;
} blanks[] = {
	{ "", true },
	{ " ", true },
	{ "\r", true },
	{ " \t \r", true },
	{ "{", false },
	{ " {}", false },
	{ "\v", false },
	{ "\xc2\xa0", false },
};

START_TEST(test_blank)
{
	for (size_t i = 0; i < ARRAY_SIZE(blanks); i++)
		ck_assert(frame_json_is_blank(blanks[i].line, strlen(blanks[i].line)) ==
			blanks[i].blank);
	ck_assert(!frame_json_is_blank("\0", 1));
}
END_TEST

START_TEST(test_error_words)
{
	static const char *const words[] = { "ok", "bad-json", "bad-topic", "bad-payload",
		"bad-qos", "bad-field", "too-large", "not-allowed", "queue-full", "storage",
		"too-many-clients", "stopping" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		ck_assert_str_eq(frame_error_to_string((enum frame_error)i), words[i]);
}
END_TEST

static void assert_reply(struct buffer *out, const char *expected)
{
	ck_assert_int_eq(buffer_append(out, "", 1), 0);
	ck_assert_str_eq(buffer_head(out), expected);
	buffer_clear(out);
}

START_TEST(test_reply_queued)
{
	struct buffer out = { 0 };

	ck_assert_int_eq(frame_json_reply_queued(&out, "7", 1, 1042), 0);
	ck_assert_int_eq(frame_json_reply_queued(&out, "\"x\"", 3, 0), 0);
	ck_assert_int_eq(frame_json_reply_queued(&out, "1e999", 5, UINT64_MAX), 0);
	ck_assert_int_eq(frame_json_reply_queued(&out, NULL, 0, 10), 0);
	assert_reply(&out,
		"{\"id\":7,\"status\":\"queued\",\"seq\":1042}\n"
		"{\"id\":\"x\",\"status\":\"queued\",\"seq\":0}\n"
		"{\"id\":1e999,\"status\":\"queued\",\"seq\":18446744073709551615}\n"
		"{\"id\":null,\"status\":\"queued\",\"seq\":10}\n");
}
END_TEST

START_TEST(test_reply_error)
{
	struct buffer out = { 0 };

	ck_assert_int_eq(
		frame_json_reply_error(&out, "8", 1, FRAME_BAD_TOPIC, "topic holds a wildcard"), 0);
	ck_assert_int_eq(frame_json_reply_error(&out, NULL, 0, FRAME_STOPPING, NULL), 0);
	assert_reply(&out,
		"{\"id\":8,\"status\":\"error\",\"error\":\"bad-topic\","
		"\"message\":\"topic holds a wildcard\"}\n"
		"{\"id\":null,\"status\":\"error\",\"error\":\"stopping\","
		"\"message\":\"stopping\"}\n");

	ck_assert_int_eq(frame_json_reply_error(
				 &out, "1", 1, FRAME_STORAGE, "q\" b\\ \n\t\x1f\x7f\xc3\xa9\xff"),
		0);
	assert_reply(&out,
		"{\"id\":1,\"status\":\"error\",\"error\":\"storage\","
		"\"message\":\"q\\\" b\\\\ \\u000a\\u0009\\u001f????\"}\n");
}
END_TEST

/* Any text, also one that is all escapes, fits the room reserved for it. */
static void check_reply_length(const char *text, size_t id_len)
{
	static const char id[] = "123456789012345678";
	struct buffer out = { 0 };
	json_error_t error;
	json_t *reply;

	ck_assert_int_eq(frame_json_reply_error(&out, id, id_len, FRAME_TOO_MANY_CLIENTS, text), 0);
	ck_assert_uint_le(out.end, out.allocated);
	reply = json_loadb(buffer_head(&out), buffer_len(&out), 0, &error);
	ck_assert_msg(reply != NULL, "%s", error.text);
	ck_assert_uint_eq(json_string_length(json_object_get(reply, "message")), strlen(text));
	json_decref(reply);
	buffer_clear(&out);
}

START_TEST(test_reply_lengths)
{
	static char text[600];

	for (int c = 1; c < 256; c++) {
		for (size_t len = 0; len < sizeof(text); len += 23) {
			memset(text, c, len);
			text[len] = '\0';
			check_reply_length(text, len % 18 + 1);
		}
	}
}
END_TEST

static char *repeat(const char *before, const char *piece, size_t times, const char *after)
{
	size_t n = strlen(piece);
	char *s = malloc(strlen(before) + n * times + strlen(after) + 1), *p = s;

	p = stpcpy(p, before);
	for (; times > 0; times--)
		p = stpcpy(p, piece);
	strcpy(p, after);
	return s;
}

static const struct {
	const char *before;
	const char *piece;
	const char *after;
	enum frame_error error;
} hostile[] = {
	{ "{\"topic\":\"a\",\"payload\":[", "1e999,", "0]}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":[", "1e999,", "0]", FRAME_BAD_JSON },
	{ "{\"topic\":\"a\",\"payload\":", "9", "}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":0.", "9", "}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":1", "e9", "}", FRAME_BAD_JSON },
	{ "{\"topic\":\"a\",\"payload\":{", "\"\\u0000\":1,", "\"\":0}}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":{", "\"k\":1,", "\"\":0}}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":[", "\"\\\"\",", "0]}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":\"", "\\ud83c\\udf21", "\"}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":\"", "\\\"", "\"}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":[", "[],", "0]}", FRAME_OK },
	{ "{", "\"x\":1,", "\"topic\":\"a\"}", FRAME_BAD_FIELD },
	{ "{", "\"qos\":1,", "\"topic\":\"a\"}", FRAME_BAD_FIELD },
	{ "{\"topic\":\"", "x", "\"}", FRAME_BAD_TOPIC },
	{ "{\"", "x", "\":1}", FRAME_BAD_FIELD },
	{ "", " ", "{\"topic\":\"a\"}", FRAME_OK },
	{ "{\"topic\"", " ", ":\"a\"}", FRAME_OK },
	{ "{\"topic\":\"a\",\"payload\":", "[", "", FRAME_BAD_JSON },
	{ "{\"topic\":\"a\",\"payload\":", "{\"a\":", "", FRAME_BAD_JSON },
	{ "{\"topic\":\"a\",\"payload\":\"", "\\", "", FRAME_BAD_JSON },
	{ "{", "\"", "", FRAME_BAD_JSON },
};

/* Many pieces: anything that is not linear would run into the timeout. */
START_TEST(test_hostile_lines)
{
	char *line = repeat(hostile[_i].before, hostile[_i].piece, 200000, hostile[_i].after);
	struct frame frame;

	ck_assert_int_eq(frame_json_parse(parser, line, strlen(line), DEFAULT_QOS, NOW, &frame),
		hostile[_i].error);
	free(line);
}
END_TEST

START_TEST(test_nesting)
{
	struct frame frame;

	for (int depth = 1; depth < 2000; depth += 37) {
		char *half = repeat("{\"topic\":\"a\",\"payload\":", "[", (size_t)depth, "");
		char *line = repeat(half, "]", (size_t)depth, "}");

		ck_assert_int_eq(parse(line, strlen(line), &frame), FRAME_OK);
		ck_assert_uint_eq(frame.message.payload_len, 2 * (size_t)depth);
		free(line);
		free(half);
	}
}
END_TEST

/* jansson counts every value, and so do we. */
START_TEST(test_nesting_bound)
{
	static const char *const inner[] = { "", "1", "\"\"" };

	for (size_t depth = 2044; depth < 2052; depth++) {
		for (size_t i = 0; i < ARRAY_SIZE(inner); i++) {
			char *half = repeat("{\"topic\":\"a\",\"payload\":", "[", depth, inner[i]);
			char *line = repeat(half, "]", depth, "}");
			json_t *root = json_loads(line, 0, NULL);
			struct frame frame;

			ck_assert_int_eq(parse(line, strlen(line), &frame),
				root ? FRAME_OK : FRAME_BAD_JSON);
			json_decref(root);
			free(line);
			free(half);
		}
	}
}
END_TEST

/* Strings are looked at in blocks: each byte in each place of them. */
START_TEST(test_bytes_of_strings)
{
	static const char head[] = "{\"topic\":\"a\",\"payload\":\"";
	size_t at = sizeof(head) - 1, most = 75;
	char line[sizeof(head) + 75 + 2];
	struct frame frame;

	for (size_t i = 0; i < most; i++) {
		for (int c = 1; c < 256; c++) {
			size_t n = i + 1 + (size_t)c % 8;
			json_t *root;

			memcpy(line, head, at);
			memset(line + at, i % 2 ? 'x' : '!', most);
			line[at + i] = (char)c;
			n = size_min(n, most);
			memcpy(line + at + n, "\"}", 2);
			root = json_loadb(line, at + n + 2, 0, NULL);
			ck_assert_int_eq(
				parse(line, at + n + 2, &frame), root ? FRAME_OK : FRAME_BAD_JSON);
			json_decref(root);
		}
	}
}
END_TEST

START_TEST(test_free_takes_null)
{
	ck_assert_ptr_null(frame_json_free(NULL));
}
END_TEST

Suite *check_frame_json(void)
{
	Suite *s = suite_create("frame_json");
	TCase *t = tcase_create("frame_json");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_good, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(t, test_bad, 0, ARRAY_SIZE(bad));
	tcase_add_test(t, test_lines_leave_no_trace);
	tcase_add_test(t, test_truncated_lines);
	tcase_add_test(t, test_default_qos);
	tcase_add_test(t, test_blank);
	tcase_add_test(t, test_error_words);
	tcase_add_test(t, test_reply_queued);
	tcase_add_test(t, test_reply_error);
	tcase_add_test(t, test_reply_lengths);
	tcase_add_test(t, test_nesting);
	tcase_add_test(t, test_nesting_bound);
	tcase_add_test(t, test_bytes_of_strings);
	tcase_add_test(t, test_free_takes_null);
	suite_add_tcase(s, t);

	t = tcase_create("hostile");
	tcase_set_tags(t, "long alone");
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_changed_lines, 0, ARRAY_SIZE(good));
	tcase_add_loop_test(t, test_hostile_lines, 0, ARRAY_SIZE(hostile));
	suite_add_tcase(s, t);
	return s;
}
