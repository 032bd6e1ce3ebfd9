"""Has Ganeti's own library read configurations and verify them.

Each line of standard input is the path of a config.data; a line of standard
output is a JSON list of what Ganeti's cluster verification finds wrong with it.
"""
import json
import sys
import types
from unittest import mock

sys.path.insert(0, "/usr/share/ganeti/default")

# What the library imports and this does not use: it may not be installed.
for name in ("OpenSSL", "pycurl", "pyparsing", "psutil", "paramiko", "simplejson"):
    try:
        __import__(name)
    except ImportError:
        sys.modules[name] = mock.MagicMock()
        if name == "OpenSSL":
            sys.modules[name].crypto = sys.modules["OpenSSL.crypto"] = types.ModuleType("OpenSSL.crypto")

from ganeti import config, objects, serializer  # noqa: E402


def verify(path):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    data = objects.ConfigData.FromDict(serializer.LoadJson(text))
    data.UpgradeConfig()
    writer = config.ConfigWriter.__new__(config.ConfigWriter)  # without its daemon
    writer._offline = True
    writer._ConfigData = lambda: data
    return writer._UnlockedVerifyConfig()


for line in sys.stdin:
    print(json.dumps(verify(line.strip())), flush=True)
