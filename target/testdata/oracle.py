# Evaluates expressions with ClusterShell's NodeSet: reads {"known": "n1,n2", "groups": {"g": "n1"},
# "expressions": [["web[1,2]!web1", "exclude or empty"], …]} and writes one line of names for each.
import json
import sys

from ClusterShell.NodeSet import NodeSet
from ClusterShell.NodeUtils import GroupResolver, GroupSource

task = json.load(sys.stdin)
source = GroupSource("default", task["groups"], task["known"])
resolver = GroupResolver(source)
for expression, exclude in task["expressions"]:
    nodes = NodeSet(expression, resolver=resolver)
    if exclude:
        nodes.difference_update(NodeSet(exclude, resolver=resolver))
    print(" ".join(sorted(nodes)))
