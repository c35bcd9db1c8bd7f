# SPDX-License-Identifier: Apache-2.0
"""The commands of scripts/lab."""

import argparse
import os
import sys

import moveguest
from ferrylab import LabError, Namespaces

NAME = "ferry-lab"
PORT = 4444  # the namespaces are new: every port is free


def up(args):
    lab = Namespaces(NAME)
    lab.up(args.rate)
    for host, address in lab.ADDRESSES.items():
        print(f"{host}: {address} (namespace {lab.namespace(host)})")
    return 0


def down(_args):
    Namespaces(NAME).down()
    return 0


def execute(args):
    lab = Namespaces(NAME)
    if not lab.exists():
        raise LabError("the lab is not up: scripts/lab up")
    if not args.command:
        raise LabError("no command given: scripts/lab exec A COMMAND...")
    command = [*lab.prefix(args.host), *args.command]
    os.execvp(command[0], command)


def run(args):
    parser = argparse.ArgumentParser(prog="scripts/lab run --")
    moveguest.add_options(parser)
    options = parser.parse_args(args.scenario)

    lab = Namespaces(f"{NAME}-{os.getpid()}")
    moveguest.exit_on_signals()
    try:
        lab.up(args.rate)
        uri = f"tcp:{lab.ADDRESSES['B']}:{PORT}"
        return moveguest.demonstrate(uri, options, (lab.prefix("A"), lab.prefix("B")))
    finally:
        lab.down()


def main():
    parser = argparse.ArgumentParser(prog="scripts/lab",
                                     description="Two network namespaces with a slow link.")
    commands = parser.add_subparsers(required=True, metavar="up|exec|down|run")
    for name, function, rate in (("up", up, None), ("down", down, None), ("run", run, "400mbit")):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        if name != "down":
            command.add_argument("--rate", default=rate, metavar="R",
                                 help="what each direction carries, as for tc"
                                      f" (default {rate or 'no limit'})")
        if name == "run":
            command.add_argument("scenario", nargs="*", metavar="-- OPTION",
                                 help="options as for scripts/demo")
    command = commands.add_parser("exec")
    command.set_defaults(function=execute)
    command.add_argument("host", choices=["A", "B"])
    command.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    try:
        return args.function(args)
    except LabError as error:
        print(f"scripts/lab: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
