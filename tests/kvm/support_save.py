# SPDX-License-Identifier: Apache-2.0
"""What the tests of saved guests share: saving, bringing back, being refused."""

import random
import subprocess

from support_system import FERRY, GUEST_SECONDS, SystemTest, ferrylab


class SaveTest(SystemTest):
    def save(self, ferry, path, *options, status=0):
        return self.ferry("save", ferry.control_path, path, *options, status=status)

    def restore(self, name, path, kernel="writer", **options):
        """Start a ferry with a saved guest; returns it when the guest runs."""
        options = {"mem": "64M", "cpus": 1, "extra": ["--debug-exit"], **options}
        ferry = self.lab.start(name, incoming=f"file:{path}", **options)
        ferry.wait_status("running", GUEST_SECONDS)
        return ferry

    def refused(self, path, reason, *options):
        """A ferry with this file ends with status 1 and this reason."""
        name = f"refused-{random.randrange(1 << 30)}"
        done = subprocess.run([FERRY, "restore", path, "--control", self.lab.path(name),
                               "--serial", "none", *options], stdin=subprocess.DEVNULL, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60,
                              preexec_fn=ferrylab.die_with_parent, check=False)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertRegex(done.stdout, reason)
