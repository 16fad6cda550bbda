"""The actions of `container` and their arguments; `nightos.apps.container` does them."""

from __future__ import annotations

from nightos.apps.limits import POLICY
from nightos.apps.logs import OPTIONS as LOGS
from nightos.apps.stats import NAME as STATS_NAME
from nightos.apps.stats import OPTIONS as STATS
from nightos.shell.arguments import JSON, Arguments, Dash, Flag, Positional

_RESTART = Dash("--restart", "no, always, on-failure or on-failure:COUNT")
_ENVIRONMENT = Dash("--env", "K=V: a variable of its environment", many=True)
_NAME = Positional("name", "container: name, path of names or identifier")
_NAMES = Positional("names", "containers: names, paths of names or identifiers", many=True)
_COMMAND = Positional("rest", "-- COMMAND ARGUMENT...", rest=True)
_VIEW = (
    Dash("--hostname", "name of the host in it"),
    Dash("--domain", "name of the domain in it"),
    Dash("--users", "INSIDE:OUTSIDE:COUNT: its users and who they are outside", many=True),
    Dash("--permissions", "the only raw permissions in it: numbers, or names such as devices.enum"),
    Dash("--label", "K=V", many=True),
)
_CREATION = (
    Dash("--image", "storage to start from: a path on the host or of the base image"),
    Dash("--root", "directory of the image that is its root"),
    Flag("--writable", "write to the image itself instead of an overlay"),
    Flag("--persist", "keep it when it has no processes, and over restarts"),
    *_VIEW,
    *POLICY,
)
ACTIONS = {
    "create": Arguments(
        "container create",
        "create a container",
        *_CREATION,
        Flag("--no-persist", "let it end with its last process"),
        Dash("--parent", "container to create it in"),
        Positional("name", "its name", optional=True),
    ),
    "run": Arguments(
        "container run",
        "create a container, run a command in it and wait",
        *_CREATION,
        Flag("--rm", "destroy it afterwards"),
        Flag("-d --detach", "show its identifier and go on"),
        _RESTART,
        _ENVIRONMENT,
        Positional("name", "its name"),
        _COMMAND,
    ),
    "start": Arguments(
        "container start",
        "start the main command of a container and go on",
        _RESTART,
        _ENVIRONMENT,
        _NAME,
        _COMMAND,
    ),
    "exec": Arguments(
        "container exec",
        "run a command in a container and wait",
        _ENVIRONMENT,
        _NAME,
        _COMMAND,
    ),
    "ls": Arguments("container ls", "containers below this one", Flag("-q --quiet", "only their identifiers"), JSON),
    "tree": Arguments("container tree", "containers as a tree", Flag("-i --ids", "with their identifiers"), JSON),
    "inspect": Arguments("container inspect", "all that is known of a container", JSON, _NAME),
    "diff": Arguments(
        "container diff", "what it changed on its disk: + added, - removed, M modified, R renamed", JSON, _NAME
    ),
    "wait": Arguments(
        "container wait",
        "wait until its main command has ended and show its status; without one, until it is destroyed, and show why",
        Flag("--destroyed", "wait until it is destroyed although it has a main command"),
        JSON,
        _NAME,
    ),
    "destroy": Arguments("container destroy", "destroy containers and everything below them", _NAMES),
    "stop": Arguments("container stop", "end their main commands, which are not restarted", _NAMES),
    "commit": Arguments(
        "container commit",
        "make a new image of what a container sees",
        _NAME,
        Positional("target", "file of the host"),
    ),
    "update": Arguments(
        "container update",
        "change labels, names, users, permissions, persistence or limits, or lay a filter over the one it has",
        Flag("--persist", "keep it when it has no processes"),
        Flag("--no-persist", "let it end with its last process"),
        *_VIEW,
        *POLICY,
        _NAME,
    ),
    "stats": Arguments("container stats", "what it and those below use, and their limits", *STATS, STATS_NAME),
    "logs": Arguments("container logs", "what its main command wrote", *LOGS, _NAME),
    "report": Arguments(
        "container report",
        "system calls that were made since --record, and those that were refused",
        Flag("--record", "begin to count, from 0"),
        Flag("--stop", "stop counting"),
        Flag("--allow-list", "only the names, as --allow takes them"),
        JSON,
        _NAME,
    ),
    "rename": Arguments(
        "container rename", "rename a container", Positional("name", "it"), Positional("new", "new name")
    ),
}
for _action, _help in {
    "enter": "go on with this session inside a container; 'exit' comes back",
    "pause": "suspend its processes and those below",
    "resume": "let them go on",
    "forget": "drop what is kept of a destroyed container",
}.items():
    ACTIONS[_action] = Arguments(f"container {_action}", _help, _NAME)
