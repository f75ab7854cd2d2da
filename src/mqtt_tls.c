/* SPDX-License-Identifier: MIT */
/*
 * TLS of one client object: see mqtt_tls.h.
 *
 * The library would make a context by itself, but then it checks the certificate against, and names
 * in SNI, the host it connects to: it would have to be given the name, and block in its own look-up
 * of it. With a context of ours it gets the address. The name comes in by a callback at the start
 * of the handshake, the last moment before the ClientHello is made; the library offers no other.
 */
#include "mqtt_tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#include "log.h"

/* --- what OpenSSL tells ----------------------------------------------------------------------- */

static bool is_numeric(const char *host)
{
	unsigned char address[sizeof(struct in6_addr)];

	return inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

/* See mqtt_tls_go_on(). */
static long on_bio(BIO *bio, int operation, const char *data, size_t len, int number, long value,
	int result, size_t *processed)
{
	const struct mqtt_tls_state *t = (struct mqtt_tls_state *)BIO_get_callback_arg(bio);

	(void)data;
	(void)len;
	(void)number;
	(void)value;
	(void)processed;
	if (!t->held)
		BIO_set_callback_ex(bio, NULL);
	if (!t->held || operation != BIO_CB_READ)
		return result;
	BIO_set_retry_read(bio);
	return -1;
}

static void hold_reading(struct mqtt_tls_state *t, const SSL *ssl)
{
	BIO *bio = SSL_get_rbio(ssl);

	BIO_set_callback_arg(bio, (char *)t);
	BIO_set_callback_ex(bio, on_bio);
}

static void on_info(const SSL *ssl, int where, int value)
{
	struct mqtt_tls_state *t = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));

	/* The library has put the address there. An address is nothing for SNI (RFC 6066,
	 * section 3). */
	if ((where & SSL_CB_HANDSHAKE_START) && !t->secured) {
		SSL_set_tlsext_host_name((SSL *)ssl, is_numeric(t->host) ? NULL : t->host);
		if (t->held)
			hold_reading(t, ssl);
	}
	if (where & SSL_CB_HANDSHAKE_DONE)
		t->secured = true;
	/* A warning ends nothing; the end of a connection in good order is one. */
	if ((where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT && value >> 8 == SSL3_AL_FATAL)
		t->alert = (unsigned)value & 0xff;
	/* Before the handshake's end the library's log says more; after it nobody listens. */
	if ((where & SSL_CB_WRITE_ALERT) == SSL_CB_WRITE_ALERT && value >> 8 == SSL3_AL_FATAL &&
		t->secured && !t->error)
		t->error = ERR_peek_error();
}

/* Without it OpenSSL asks for the password of a key on the terminal. */
static int on_password(char *buf, int size, int writing, void *userdata)
{
	(void)buf;
	(void)size;
	(void)writing;
	(void)userdata;
	return 0;
}

void mqtt_tls_note(struct mqtt_tls_state *t, const SSL *ssl, const char *text)
{
	const char *code = strstr(text, ": error:");

	if (code)
		mqtt_tls_note_error(t, ssl, strtoul(code + strlen(": error:"), NULL, 16));
}

void mqtt_tls_note_error(struct mqtt_tls_state *t, const SSL *ssl, unsigned long error)
{
	if (t->error || !error)
		return;
	t->error = error;
	if (ssl && !t->settings.insecure && ERR_GET_LIB(t->error) == ERR_LIB_SSL &&
		ERR_GET_REASON(t->error) == SSL_R_CERTIFICATE_VERIFY_FAILED)
		t->verify = SSL_get_verify_result(ssl);
}

/* --- before a connection ---------------------------------------------------------------------- */

static bool refuse(struct mqtt_tls_state *t, const char *what, const char *path)
{
	/* The first one is nearest to the cause; what follows only wraps it. */
	unsigned long error = ERR_peek_error();
	const char *reason = ERR_SYSTEM_ERROR(error) ? strerrordesc_np(ERR_GET_REASON(error))
						     : ERR_reason_error_string(error);

	snprintf(t->local, sizeof(t->local), "%s %.80s: %s", what, path,
		reason ? reason : "unknown error");
	ERR_clear_error();
	return false;
}

static bool load_authorities(struct mqtt_tls_state *t, SSL_CTX *ctx)
{
	const struct mqtt_tls *s = &t->settings;

	if (!s->ca_file[0] && !s->ca_path[0] && SSL_CTX_set_default_verify_paths(ctx) != 1)
		return refuse(t, "cannot load", "the system's certificates");
	if (s->ca_file[0] && SSL_CTX_load_verify_file(ctx, s->ca_file) != 1)
		return refuse(t, "cannot load CA certificates from", s->ca_file);
	if (s->ca_path[0] && SSL_CTX_load_verify_dir(ctx, s->ca_path) != 1)
		return refuse(t, "cannot load CA certificates from", s->ca_path);
	return true;
}

static bool load_own_certificate(struct mqtt_tls_state *t, SSL_CTX *ctx)
{
	const struct mqtt_tls *s = &t->settings;

	if (!s->cert_file[0])
		return true;
	SSL_CTX_set_default_passwd_cb(ctx, on_password);
	if (SSL_CTX_use_certificate_chain_file(ctx, s->cert_file) != 1)
		return refuse(t, "cannot load the client certificate", s->cert_file);
	if (SSL_CTX_use_PrivateKey_file(ctx, s->key_file, SSL_FILETYPE_PEM) != 1)
		return refuse(t, "cannot load the client certificate's key", s->key_file);
	if (SSL_CTX_check_private_key(ctx) != 1)
		return refuse(t, "no key of the client certificate:", s->key_file);
	return true;
}

static bool expect_peer(struct mqtt_tls_state *t, SSL_CTX *ctx)
{
	X509_VERIFY_PARAM *param = SSL_CTX_get0_param(ctx);

	if (t->settings.insecure) {
		SSL_CTX_set_verify(ctx, SSL_VERIFY_NONE, NULL);
		return true;
	}
	SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	if (is_numeric(t->host) ? X509_VERIFY_PARAM_set1_ip_asc(param, t->host) != 1
				: X509_VERIFY_PARAM_set1_host(param, t->host, 0) != 1)
		return refuse(t, "cannot check a certificate for", t->host);
	return load_authorities(t, ctx);
}

static bool offer_alpn(struct mqtt_tls_state *t, SSL_CTX *ctx)
{
	unsigned char wire[256];
	size_t len = strlen(t->settings.alpn);

	if (len == 0)
		return true;
	if (len > 255)
		return refuse(t, "too long for ALPN:", t->settings.alpn);
	wire[0] = (unsigned char)len;
	memcpy(wire + 1, t->settings.alpn, len);
	/* This one returns 0 for success. */
	if (SSL_CTX_set_alpn_protos(ctx, wire, (unsigned)len + 1) != 0)
		return refuse(t, "cannot offer ALPN", t->settings.alpn);
	return true;
}

SSL_CTX *mqtt_tls_begin(struct mqtt_tls_state *t, const char *host)
{
	SSL_CTX *ctx;

	t->secured = false;
	t->held = true;
	t->alert = 0;
	t->verify = X509_V_OK;
	t->error = 0;
	t->local[0] = '\0';
	ERR_clear_error();
	free(t->host);
	t->host = strdup(host);
	ctx = t->host ? SSL_CTX_new(TLS_client_method()) : NULL;
	if (!ctx) {
		refuse(t, "no memory for", "TLS");
		return NULL;
	}
	SSL_CTX_set_app_data(ctx, t);
	SSL_CTX_set_info_callback(ctx, on_info);
	SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	if (!expect_peer(t, ctx) || !load_own_certificate(t, ctx) || !offer_alpn(t, ctx)) {
		SSL_CTX_free(ctx);
		return NULL;
	}
	/* Reading a file leaves its end in the queue of errors. */
	ERR_clear_error();
	return ctx;
}

void mqtt_tls_hold(struct mqtt_tls_state *t, const SSL *ssl)
{
	t->held = true;
	hold_reading(t, ssl);
}

void mqtt_tls_go_on(struct mqtt_tls_state *t)
{
	t->held = false;
}

/* --- after it --------------------------------------------------------------------------------- */

static void describe_certificate(const struct mqtt_tls_state *t, struct failure *f)
{
	switch (t->verify) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		failure_set(f, FAILURE_PROTOCOL,
			"broker's certificate has expired (if this machine's clock is right)");
		break;
	case X509_V_ERR_CERT_NOT_YET_VALID:
		failure_set(f, FAILURE_PROTOCOL,
			"broker's certificate is not valid yet; this machine's clock may be wrong");
		break;
	case X509_V_ERR_HOSTNAME_MISMATCH:
	case X509_V_ERR_IP_ADDRESS_MISMATCH:
		failure_set(
			f, FAILURE_PROTOCOL, "broker's certificate is not for \"%.100s\"", t->host);
		break;
	default:
		failure_set(f, FAILURE_PROTOCOL, "broker's certificate is not trusted: %s",
			X509_verify_cert_error_string(t->verify));
	}
}

static void describe_alert(const struct mqtt_tls_state *t, bool up, struct failure *f)
{
	const char *name;
	enum failure_class class =
		failure_of_tls_alert(t->alert, t->settings.cert_file[0] != '\0', &name);

	if (up)
		failure_set(f, FAILURE_HEARTBEAT, "broker ended TLS: %s", name);
	else if (class != FAILURE_AUTH)
		failure_set(f, class, "broker refused the TLS handshake: %s", name);
	else if (t->settings.cert_file[0])
		failure_set(f, class, "broker refused the client certificate: %s", name);
	else
		failure_set(f, class, "broker wants a client certificate: %s", name);
}

static void describe_error(const struct mqtt_tls_state *t, struct failure *f)
{
	const char *reason = ERR_reason_error_string(t->error);

	if (!reason)
		reason = "unknown error";
	switch (ERR_GET_LIB(t->error) == ERR_LIB_SSL ? ERR_GET_REASON(t->error) : 0) {
	case SSL_R_WRONG_VERSION_NUMBER:
	case SSL_R_PACKET_LENGTH_TOO_LONG:
#ifdef SSL_R_RECORD_LAYER_FAILURE /* OpenSSL 3.2 */
	case SSL_R_RECORD_LAYER_FAILURE:
#endif
	case SSL_R_HTTP_REQUEST:
	case SSL_R_BAD_RECORD_TYPE:
		failure_set(
			f, FAILURE_PROTOCOL, "broker does not speak TLS on this port: %s", reason);
		break;
	default: failure_set(f, FAILURE_PROTOCOL, "TLS handshake failed: %s", reason);
	}
}

static bool is_end_of_file(const struct mqtt_tls_state *t)
{
	return ERR_GET_LIB(t->error) == ERR_LIB_SSL &&
		ERR_GET_REASON(t->error) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
}

bool mqtt_tls_describe(const struct mqtt_tls_state *t, bool up, int error, struct failure *f)
{
	if (t->local[0])
		failure_set(f, FAILURE_PROTOCOL, "%s", t->local);
	else if (t->verify != X509_V_OK)
		describe_certificate(t, f);
	else if (t->alert)
		describe_alert(t, up, f);
	else if (t->secured && (!t->error || is_end_of_file(t)))
		return false; /* as without TLS */
	else if (t->secured)
		failure_set(f, up ? FAILURE_HEARTBEAT : FAILURE_TIMEOUT, "TLS failed: %s",
			ERR_reason_error_string(t->error));
	else if (t->error && !is_end_of_file(t))
		describe_error(t, f);
	else
		failure_set(f, FAILURE_TIMEOUT,
			"broker hung up during the TLS handshake%s%s; does it speak TLS there?",
			error ? ": " : "", error ? strerrordesc_np(error) : "");
	return true;
}

/* --- the object ------------------------------------------------------------------------------- */

int mqtt_tls_new(struct mqtt_tls_state **ret, const struct mqtt_tls *settings)
{
	struct mqtt_tls_state *t;
	struct mqtt_tls *s;

	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	s = &t->settings;
	s->insecure = settings->insecure;
	s->ca_file = strdup(settings->ca_file);
	s->ca_path = strdup(settings->ca_path);
	s->cert_file = strdup(settings->cert_file);
	s->key_file = strdup(settings->key_file);
	s->alpn = strdup(settings->alpn);
	if (!s->ca_file || !s->ca_path || !s->cert_file || !s->key_file || !s->alpn) {
		mqtt_tls_free(t);
		return -ENOMEM;
	}
	*ret = t;
	return 0;
}

struct mqtt_tls_state *mqtt_tls_free(struct mqtt_tls_state *t)
{
	if (!t)
		return NULL;
	free((char *)t->settings.ca_file);
	free((char *)t->settings.ca_path);
	free((char *)t->settings.cert_file);
	free((char *)t->settings.key_file);
	free((char *)t->settings.alpn);
	free(t->host);
	free(t);
	return NULL;
}
