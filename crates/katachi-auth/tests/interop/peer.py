"""Signs or verifies one message with the PyPI package http-message-signatures.

Reads a job as JSON from standard input, writes the outcome as JSON.
"""

import base64
import datetime
import json
import sys

import http_message_signatures as hms
from cryptography.hazmat.primitives.asymmetric import ed25519


class Keys(hms.HTTPSignatureKeyResolver):
    def __init__(self, algorithm, key):
        self.algorithm, self.key = algorithm, base64.b64decode(key)

    def resolve_private_key(self, key_id):
        if self.algorithm == "ed25519":
            return ed25519.Ed25519PrivateKey.from_private_bytes(self.key)
        return self.key

    def resolve_public_key(self, key_id):
        if self.algorithm == "ed25519":
            return self.resolve_private_key(key_id).public_key()
        return self.key


class Message:
    def __init__(self, parts):
        self.headers = dict(parts["headers"])
        if "status" in parts:
            self.status_code = parts["status"]
            self.request = Message(parts["request"]) if parts.get("request") else None
        else:
            self.method, self.url = parts["method"], parts["url"]


job = json.load(sys.stdin)
keys = Keys(job["algorithm"], job["key"])
algorithm = {
    "hmac-sha256": hms.algorithms.HMAC_SHA256,
    "ed25519": hms.algorithms.ED25519,
}[job["algorithm"]]
message = Message(job["message"])

if job["do"] == "sign":
    signer = hms.HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=keys)
    now = datetime.datetime.now()
    signer.sign(
        message,
        key_id="k-1",
        created=now,
        expires=now + datetime.timedelta(seconds=60),
        nonce="n-1",
        label="theirs",
        tag="interop",
        covered_component_ids=job["components"],
    )
    print(json.dumps({"headers": list(message.headers.items())}))
else:
    verifier = hms.HTTPMessageVerifier(signature_algorithm=algorithm, key_resolver=keys)
    try:
        results = verifier.verify(message, expect_tag=job["tag"])
        covered = [list(result.covered_components) for result in results]
        print(json.dumps({"accepted": True, "covered": covered[0]}))
    except hms.InvalidSignature as error:
        print(json.dumps({"accepted": False, "why": str(error)}))
