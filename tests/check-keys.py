#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Are the keys of the table in src/config_table.c, those of mqttgw.conf(5) and those of
etc/mqttgw.conf the same, with the same types, ranges and defaults?  And is every example true?

    tests/check-keys.py        in a build directory; runs its mqtt-gatewayd
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(os.environ.get("srcdir", Path(__file__).resolve().parents[1]))
DAEMON = Path(os.environ.get("builddir", ".")).resolve() / "mqtt-gatewayd"

TYPES = {
    "STRING": "String", "TEMPLATE": "String", "SECRET": "String", "WORD": "String",
    "MODE": "String", "BOOLEAN": "Boolean", "COUNT": "Integer", "SIZE": "Size",
    "DURATION": "Seconds", "FACTOR": "Number", "GROUP": "A group", "FILTERS": None,
}

# Bounds that another key sets.
LEAST = {"socket.max_buffered_bytes": "socket.max_message_bytes", "retry.max": "retry.base"}

# What else has to stand in a group for the example to make sense.
BESIDE = {
    "brokers.password": 'username = "u";',
    "brokers.password_file": 'username = "u";',
    "brokers.tls.cert_file": 'key_file = "/etc/mqttgw/plant-7.key";',
    "brokers.tls.key_file": 'cert_file = "/etc/mqttgw/plant-7.pem";',
    **{f"mqtt.{which}.{key}": 'topic = "gateways/%i";' for which in ("will", "birth")
       for key in ("payload", "qos", "retain")},
}

faults = []


def fault(text):
    if text not in faults:
        faults.append(text)


# --- the table -----------------------------------------------------------------------------------


def number(text):
    """The value of a constant expression."""
    value = 1.0
    for factor in text.split("*"):
        value *= {"K": 2**10, "M": 2**20, "G": 2**30, "DAY": 86400, "true": 1}.get(
            factor.strip()) or float(factor)
    return value


def size(value):
    for unit, shift in ("G", 30), ("M", 20), ("K", 10):
        if value and value % (1 << shift) == 0:
            return f"{int(value) >> shift}{unit}"
    return str(int(value))


def read_table(text):
    """{"group.key": {kind, text, number, least, most, above, zero, none, words}}"""
    arrays, names = {}, {}
    for match in re.finditer(r"struct config_key (\w+)_keys\[\] = \{\n(.*?)^\};", text, re.M | re.S):
        entries = []
        body = re.sub(r"/\*.*?\*/", "", match[2], flags=re.S)
        for entry in re.finditer(r'\{ "(\w+)", CONFIG_KIND_(\w+), (.*?) \},\n', body, re.S):
            key = {"name": entry[1], "kind": entry[2]}
            key.update(re.findall(r'\.(\w+) = ("[^"]*"|[^,]+?)\s*(?:,|$)', entry[3]))
            entries.append(key)
        assert len(entries) == body.count("CONFIG_KIND_"), match[1]
        arrays[match[1]] = entries
    for match in re.finditer(r'"([\w.]+)", (\w+)_keys, ARRAY_SIZE', text):
        names.setdefault(match[2], []).append(match[1])
    assert set(arrays) == set(names)
    words = dict(re.findall(r'struct config_words (\w+) = \{[^}]*?("\\".*?\\""),\n\}', text, re.S))
    table = {}
    for array, entries in arrays.items():
        for group in names[array]:
            for key in entries:
                key = dict(key)
                if "words" in key:
                    key["words"] = re.findall(r'\\"(.*?)\\"', words[key["words"].lstrip("&")])
                table[f"{group}.{key['name']}"] = key
    return table


def default(key):
    """As configurations write it."""
    kind = key["kind"]
    value = number(key.get("number", "0"))
    if "text" in key:
        return key["text"]
    if kind == "BOOLEAN":
        return "true" if value else "false"
    if key.get("none") and not value:
        return '"none"'
    if kind == "SIZE":
        return f'"{size(value)}"'
    return f"{value:.1f}" if kind in ("DURATION", "FACTOR") else f"{value:.0f}"


def allowed(name, key):
    """What the page must say of the range."""
    kind = key["kind"]
    if kind == "WORD":
        return [f'"{word}"' for word in key["words"]]
    if kind == "MODE":
        return ['"0000" to "0777"']
    if kind not in ("COUNT", "SIZE", "DURATION", "FACTOR"):
        return []
    write = size if kind == "SIZE" else "{:.0f}".format
    least, most = (write(number(key.get(which, "0"))) for which in ("least", "most"))
    if name in LEAST:
        return [f"{LEAST[name]} to {most}"]
    none = ['"none"'] if "none" in key else []
    if "above" in key:
        return [f"above {least}, up to {most}"] + none
    return [("0 or " if "zero" in key else "") + f"{least} to {most}"] + none


# --- the page ------------------------------------------------------------------------------------


def plain(line):
    """A line of mdoc as it is read."""
    line = re.sub(r"^\.(Va|Li|Pa|Xr|Ql|Ev|Cm|Qq|Ic) ", "", line)
    for escape, text in ("\\(dq", '"'), ("\\&", ""), ("\\e", "\\"), ("\\-", "-"):
        line = line.replace(escape, text)
    return line


def read_page(text):
    """{"group.key": (text, [example])}"""
    keys, name, depth = {}, None, 0
    body = text.split("\n.Sh KEYS\n", 1)[1].split("\n.Sh ", 1)[0]
    for line in body.splitlines():
        depth += line.startswith(".Bl ") - line.startswith(".El")
        item = re.fullmatch(r"\.It Va (\S+)", line)
        if item:
            name = item[1]
            if name in keys:
                fault(f"mqttgw.conf(5) has {name} twice")
            keys[name] = ([], [])
        elif depth == 0:
            name = None
        elif name and line.startswith(".Dl "):
            keys[name][1].append(plain(line[4:]))
        elif name:
            keys[name][0].append(re.sub(r"^\.It Li ", "", plain(line)))
    return {name: (re.sub(r" ([.,;:])(?=\s|$)", r"\1", " ".join(words)), examples)
            for name, (words, examples) in keys.items()}


def check_entry(name, key, text, examples):
    """One key of the page against the table."""
    where = f"mqttgw.conf(5), {name}"
    kind = TYPES[key["kind"]]
    if kind and not text.startswith(kind):
        fault(f'{where}: begins with "{text[:30]}...", must begin with "{kind}"')
    for words in allowed(name, key):
        if words not in text:
            fault(f"{where}: does not say that {words} is allowed")
    value = default(key)
    said = re.search(rf"default:? {re.escape(value)}(?=[\s.,;:]|$)", text) or (
        value == '"none"' and 'or "none", which is the default' in text)
    if kind and kind != "A group" and name.split(".")[0] != "access" and not said:
        fault(f"{where}: does not say that the default is {value}")
    if not examples and not name.startswith("access."):  # its section has one for all
        fault(f'{where}: has no example (".Dl KEY = VALUE;")')
    for example in examples:
        if not re.match(rf"{key['name']}(:| =)", example):
            fault(f"{where}: the example does not set it: {example}")
        elif example == f"{key['name']} = {value};":
            fault(f"{where}: the example is the default")


def check_reloading(table, text, source):
    """Is each key among those that take effect as the page's RELOADING says?"""
    section = text.split("\n.Sh RELOADING\n", 1)[1].split("\n.Sh ", 1)[0]
    said = [re.findall(r"^\.Va ([\w.]+)", item, re.M)
            for item in section.split("\n.It ")[1:]]
    order = ("LIVE", "UPLINK", "RESTART", "REPORT")
    assert len(said) == len(order)
    for name, effect in re.findall(r'\{ "([\w.]+)", CONFIG_EFFECT_(\w+) \}', source):
        parts = name.split(".")
        if not any(".".join(parts[:n]) in said[order.index(effect)]
                   for n in range(1, len(parts) + 1)):
            fault(f"mqttgw.conf(5), RELOADING: {name} is {effect}, and is not there")


# --- the configuration file ----------------------------------------------------------------------


def uncomment(text):
    """With each setting behind a "#" in effect; prose has a blank behind it."""
    return re.sub(r"^(\t*)#(?=[\w}(])", r"\1", text, flags=re.M)


def read_file(text):
    """{"group.key": value} of a file that has one broker at most."""
    keys, path = {}, []
    for line in text.splitlines():
        line = line.strip()
        opened = re.fullmatch(r"(?:(\w+):)?\s*([{(])", line)
        setting = re.fullmatch(r"(\w+) = (.*);", line)
        if line.startswith(("#", "//")) or not line:
            continue
        if opened:
            path.append(opened[1] or "")
        elif re.fullmatch(r"[})];?", line):
            path.pop()
        elif setting:
            keys[".".join(filter(None, [*path, setting[1]]))] = setting[2]
        elif not path or path[0] != "access":
            fault(f"etc/mqttgw.conf: what is this line? {line}")
    return keys


def check_file(table, text):
    there = read_file(uncomment(text))
    for name, key in table.items():
        if name.startswith("access."):
            if not re.search(rf"\b{key['name']} = ", text.split("access", 1)[1]):
                fault(f"etc/mqttgw.conf lacks {name}")
        elif key["kind"] == "GROUP":
            if not any(other.startswith(name + ".") for other in there):
                fault(f"etc/mqttgw.conf lacks {name}")
        elif name not in there:
            fault(f"etc/mqttgw.conf lacks {name}")
        elif there[name] != default(key):
            fault(f"etc/mqttgw.conf shows {name} = {there[name]}, the default is {default(key)}")
    for name in there:
        if name not in table and not name.startswith("access."):
            fault(f"etc/mqttgw.conf has {name}, which is no key")


# --- the daemon ----------------------------------------------------------------------------------


def wrap(name, inside):
    """`inside` as the content of the group that holds the key."""
    for group in reversed(name.split(".")[:-1]):
        inside = f"{group}: ( {{ {inside} }} );" if group == "brokers" else (
            f"{group}: {{ {inside} }};")
    return inside


def run_daemon(folder, text, *more):
    path = folder / "mqttgw.conf"
    path.write_text(text)
    done = subprocess.run([DAEMON, *more, "-c", path], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def check_examples(page, folder):
    """Files that examples name are made; nothing else of a machine is asked for."""
    for name in ("ca.pem", "plant-7.pem", "plant-7.key", "password"):
        (folder / name).write_text("x\n")
        (folder / name).chmod(0o600)
    for name, (_, examples) in page.items():
        for example in examples:
            text = wrap(name, BESIDE.get(name, "") + example)
            status, said = run_daemon(
                folder, text.replace("/etc/mqttgw/", f"{folder}/"), "--check-config")
            if status != 0:
                fault(f"mqttgw.conf(5), {name}: the example is at fault: {said.strip()}")


def check_defaults(table, folder):
    """The table as it was read here against what the daemon says, so that both are right."""
    status, said = run_daemon(folder, "brokers: ( { tls: { }; } );", "--print-config")
    there = read_file(said)
    assert status == 0, said
    for name, key in table.items():
        if key["kind"] == "GROUP" or name.startswith("access."):
            continue
        if name in ("gateway.id", "mqtt.client_id", "brokers.port"):
            continue  # from the machine; from tls
        if there.get(name) != default(key):
            fault(f"the daemon's default of {name} is {there.get(name)}, not {default(key)}")
    for name in there:
        if name not in table:
            fault(f"the daemon knows {name}, and the table does not")


# --- the run -------------------------------------------------------------------------------------


def check(table, page_text, file_text):
    page = read_page(page_text)
    for name, key in table.items():
        if key["kind"] == "GROUP" and name not in page:
            continue  # a heading, no switch; its keys are looked for
        if name not in page:
            fault(f"mqttgw.conf(5) lacks {name}")
        else:
            check_entry(name, key, *page[name])
    for name in page:
        if name not in table and name != "access":
            fault(f"mqttgw.conf(5) has {name}, which is no key")
    check_file(table, file_text)
    return page


def self_test(table, page, file):
    """Would it notice?"""
    for what, there, here, text in (
        (page, ".It Va queue.overflow\n", ".It Va queue.overfow\n", "lacks queue.overflow"),
        (page, "Integer, 1 to 65536, default", "Integer, 1 to 65535, default", "1 to 65536"),
        (page, "up to 86400, default 1.0.", "up to 86400, default 2.0.", "default is 1.0"),
        (page, ".Dl max_clients = 64;\n", "", "no example"),
        (file, "#keepalive = 60;", "#keepalive = 30;", "mqtt.keepalive = 30"),
        (file, "\t#keepalive = ", "\t#keep_alive = ", "mqtt.keep_alive, which is no key"),
    ):
        assert there in what, there
        changed = what.replace(there, here, 1)
        check(table, changed if what is page else page, changed if what is file else file)
        assert [each for each in faults if text in each], f"not noticed: {text}"
        faults.clear()


def main():
    table = read_table((TOP / "src/config_table.c").read_text())
    page = (TOP / "man/mqttgw.conf.5").read_text()
    file = (TOP / "etc/mqttgw.conf").read_text()
    entries = check(table, page, file)
    check_reloading(table, page, (TOP / "src/config_diff.c").read_text())
    with tempfile.TemporaryDirectory() as folder:
        check_examples(entries, Path(folder))
        check_defaults(table, Path(folder))
    if not faults:
        self_test(table, page, file)
    for each in faults:
        print(each)
    print(f"{len(table)} keys, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
