"""Device flow with the PyPI package authlib. Argument: the server's base address.

Prints the user code, polls twice, waits for a line on standard input, prints the token.
"""

import sys

import requests
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.requests_client import OAuth2Session

base = sys.argv[1]
grant = "urn:ietf:params:oauth:grant-type:device_code"
client = OAuth2Session("authlib", token_endpoint_auth_method="none")
started = requests.post(f"{base}/device", data={"client_id": "authlib"}, timeout=10).json()


def poll():
    return client.fetch_token(
        f"{base}/token", grant_type=grant, device_code=started["device_code"]
    )


for expected in ["authorization_pending", "slow_down"]:
    try:
        poll()
        sys.exit("a token before anybody approved")
    except OAuthError as error:
        assert error.error == expected, error
print(started["user_code"], flush=True)
sys.stdin.readline()
print(poll()["access_token"], flush=True)
