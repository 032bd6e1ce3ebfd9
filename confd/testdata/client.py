"""Drives Ganeti's own confd client: one JSON request a line in, one JSON outcome out.

Arguments: key file, port, peers with commas. A line is {"type", "query", "coverage"}.
The line {"upcalls": [[salt, kind, serial, answer]...]} feeds the callbacks instead,
{"needed": N} asks for _NeededReplies of 0 to N.
"""
import json
import sys

sys.path.insert(0, "/usr/share/ganeti/default")

from ganeti import objects  # noqa: E402
from ganeti.confd import client  # noqa: E402


def ask(c, store, line):
    request = client.ConfdClientRequest(type=line["type"], query=line.get("query"))
    c.SendRequest(request, coverage=line.get("coverage", -1))
    c.FlushSendQueue()
    timed_out, sent, received = c.WaitForReply(request.rsalt, timeout=line.get("timeout", 5))
    out = {"timed_out": timed_out, "sent": sent, "received": received}
    have, up = store.GetResponse(request.rsalt)
    if have:
        r = up.server_reply
        out.update(protocol=r.protocol, status=r.status, answer=r.answer, serial=r.serial, ip=up.server_ip)
    return out


def feed(line):
    passed = []
    n = [0]

    def note(up):
        passed.append(n[0])

    store = client.StoreResultCallback()
    flt = client.ConfdFilterCallback(note)
    cnt = client.ConfdCountingCallback(flt)
    cnt.RegisterQuery("a")
    cnt.RegisterQuery("b")
    trace = []
    for salt, kind, serial, answer in line["upcalls"]:
        up = client.ConfdUpcallPayload(salt=salt, type=kind)
        if kind == client.UPCALL_REPLY:
            up.server_reply = objects.ConfdReply(protocol=1, status=0, answer=answer, serial=serial)
        before = len(passed)
        cnt(up)
        store(up)
        have, last = store.GetResponse(salt)
        trace.append([len(passed) > before, flt.consistent.get(salt), cnt.AllAnswered(),
                      last.server_reply.serial if have else None])
        n[0] += 1
    return trace


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        key = f.read()
    store = client.StoreResultCallback()
    c = client.ConfdClient(key, sys.argv[3].split(","), store, port=int(sys.argv[2]))
    for text in sys.stdin:
        line = json.loads(text)
        if "upcalls" in line:
            out = feed(line)
        elif "needed" in line:
            out = [client.ConfdClient._NeededReplies(i) for i in range(line["needed"] + 1)]
        else:
            try:
                out = ask(c, store, line)
            except Exception as err:  # what the client raises is an outcome, too
                out = {"error": "%s: %s" % (type(err).__name__, err)}
        print(json.dumps(out), flush=True)


main()
