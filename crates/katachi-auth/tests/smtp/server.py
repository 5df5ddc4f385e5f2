"""A real SMTP server on loopback by aiosmtpd.

Arguments: certificate, key, and `tls`, `starttls` or `plain`. Prints its port, then one
line of JSON for each mail taken. Ends with its standard input.
"""

import json
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

certificate, key, mode = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        mail = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "content": envelope.content.decode(),
            "tls": session.ssl is not None or mode == "tls",
        }
        print(json.dumps(mail), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    right = data.login == b"katachi" and data.password == b"mail password"
    return AuthResult(success=right)


options = {"authenticator": authenticate, "auth_required": True}
if mode == "tls":
    options |= {"ssl_context": context, "auth_require_tls": False}
elif mode == "starttls":
    options |= {"tls_context": context, "require_starttls": True}
else:
    options = {}


class OnAnyPort(Controller):
    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


controller = OnAnyPort(Handler(), hostname="127.0.0.1", port=0, **options)
controller.start()
print(controller.server.sockets[0].getsockname()[1], flush=True)
sys.stdin.read()
controller.stop()
