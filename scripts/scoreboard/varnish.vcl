vcl 4.1;

# Varnish's own rules; streaming while it fetches is its default.
backend default {{ .host = "{host}"; .port = "{port}"; .first_byte_timeout = 600s; .between_bytes_timeout = 600s; }}
