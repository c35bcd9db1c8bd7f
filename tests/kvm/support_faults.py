# SPDX-License-Identifier: Apache-2.0
"""What the tests of failing migrations share."""

from support_proxy import FORWARD, Proxy
from support_system import SystemTest, port_of

TINY = "size=4M rate=1000"   # a writer's command line: soon moved
STILL = "size=4M rate=none"  # nothing is sent twice


def once(action, *which):
    """For Proxy.on_frame: an action for the first frame of these kinds, (to_destination, type)."""
    def on_frame(to_destination, kind):
        if (to_destination, kind) in which and not on_frame.done:
            on_frame.done = True
            return action() if callable(action) else action
        return FORWARD

    on_frame.done = False
    return on_frame


class FaultTest(SystemTest):
    def proxy(self, uri, **rules):
        between = Proxy(port_of(uri), **rules)
        self.addCleanup(between.close)
        return between

    def token(self, source):
        """The token of an undecided source; the guest is gone from there."""
        info = self.query(source)
        self.assertEqual(info["status"], "undecided", info)
        self.assertRegex(info["x-ferry-token"], r"^[0-9a-f]{16}$")
        self.assert_gone(source)
        return info["x-ferry-token"]

    def succeeds(self, source, destination, uri):
        """After whatever happened before, the move works."""
        source.qmp.execute("migrate-set-parameters", max_bandwidth=0)
        self.move(source, destination, uri)
        self.verify_lives(destination)
