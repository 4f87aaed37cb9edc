#!/usr/bin/env python3
"""Renders the Helm chart, checks what comes of it, and writes what is derived from it.

    chart.py check --wstap PATH    everything; the binary says which flags there are
    chart.py write                 the chart's copies, the dashboards and the plain manifests

It needs the packages helm-python-sdk, which carries Helm, kubernetes-validate and PyYAML. `cargo xtask deploy` calls it.
"""

import argparse
import copy
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import helm_python as helm
import jsonschema
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).resolve().parent.parent
CHART = DEPLOY / "helm/wstap"
HERE = DEPLOY / "tests"
DOCS = DEPLOY.parent / "docs"

# The oldest API that the chart says it is for, and the newest that there are schemas of.
OLDEST, NEWEST = "1.25", kubernetes_validate.latest_version()
# The first one with what a pod may ask of AppArmor.
APPARMOR = "1.30"

# Flags of `wstap run` that values set by other means than `config`, or that no DaemonSet needs.
ELSEWHERE = {"config", "help", "kubernetes", "kubernetes-services", "listen", "netns", "node-name"}

INFO = 1

# The case without any values.
DEFAULTS = "no values"

# What the plain manifests are rendered with: a namespace of their own, and no custom resources in the first file.
PLAIN = {
    "wstap.yaml": {},
    "monitoring.yaml": {
        "scrape": "podMonitor",
        "prometheusRule": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
MONITORING = {"PodMonitor", "PrometheusRule"}

wrong = []


def expect(holds, what):
    if not holds:
        wrong.append(what)
        print(f"wrong: {what}", file=sys.stderr)
    return holds


# --- Rendering ---------------------------------------------------------------------------------------------------


def render(values):
    """The manifests' texts by template, without the notes."""
    with helm.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="wstap", namespace="wstap", is_install=True)
    expect(rendered[f"{CHART.name}/templates/NOTES.txt"].strip(), "there are notes")
    return {Path(path).name: text for path, text in sorted(rendered.items()) if path.endswith(".yaml")}


class Unique(yaml.SafeLoader):
    """YAML in which no key is there twice."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        expect(len(keys) == len(set(keys)), f"a key is there once: {keys}")
        return super().construct_mapping(node, deep)


def documents(texts):
    found = [doc for text in texts.values() for doc in yaml.load_all(text, Loader=Unique) if doc]
    return {(doc["kind"], doc["metadata"]["name"]): doc for doc in found}


def only(docs, kind):
    found = [doc for (of, _), doc in docs.items() if of == kind]
    if not expect(len(found) == 1, f"there is one {kind}, not {len(found)}"):
        sys.exit(1)
    return found[0]


def validate(docs, versions, name):
    for (kind, _), doc in docs.items():
        own = HERE / f"schemas/{kind.lower()}.json"
        try:
            if own.exists():
                jsonschema.validate(doc, json.loads(own.read_text()))
                continue
            for version in versions:
                kubernetes_validate.validate(doc, version, strict=True)
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            where = "/".join(str(part) for part in error.absolute_path)
            expect(False, f"{name}: {kind} is valid: {where}: {error.message}")


# --- What is derived ---------------------------------------------------------------------------------------------

HEADER = """\
# Plain manifests, for kubectl: rendered from deploy/helm/wstap by `cargo xtask deploy --write`.
"""

NAMESPACE = """\
apiVersion: v1
kind: Namespace
metadata:
  name: wstap
  labels:
    # The host's network, user 0 and the capabilities that the agent needs are what every other level forbids.
    pod-security.kubernetes.io/enforce: privileged
"""

ABOUT = {
    "wstap.yaml": "# The agent on every node; metrics are found by the annotations of its pods.\n",
    "monitoring.yaml": """\
# For a cluster with the Prometheus operator and Grafana's sidecar: PodMonitor, alerts and dashboards. Label the first two as your
# Prometheus selects them. Where annotations are scraped as well, take them off the DaemonSet.
""",
}


def plain(name):
    """The text of a plain manifest."""
    monitoring = name == "monitoring.yaml"
    parts = [] if monitoring else [NAMESPACE]
    texts = render(PLAIN[name])
    # A service account before what needs it.
    order = ["serviceaccount.yaml", "rbac.yaml", "configmap.yaml", "daemonset.yaml"]
    order += ["podmonitor.yaml", "prometheusrule.yaml", "dashboards.yaml"]
    for template in order:
        for text in re.split(r"^---$", texts[template], flags=re.MULTILINE):
            doc = yaml.safe_load(text)
            if not doc:
                continue
            extra = doc["kind"] in MONITORING or "-" in doc["metadata"]["name"]
            if extra == monitoring:
                # Helm has no part in it any more.
                own = [line for line in text.strip().split("\n") if not re.search(r"helm\.sh/chart|managed-by", line)]
                parts.append("\n".join(own) + "\n")
    return HEADER + ABOUT[name] + "---\n" + "---\n".join(parts)


def derived():
    """Each file that is made from others, and what it has to be."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        generate = DEPLOY / "grafana/generate.py"
        subprocess.run([sys.executable, generate, folder], check=True)
        for path in sorted(Path(folder).iterdir()):
            files[DEPLOY / "grafana" / path.name] = path.read_text()
            files[CHART / "dashboards" / path.name] = path.read_text()
    files[CHART / "rules.yaml"] = (DEPLOY / "prometheus/rules.yaml").read_text()
    return files


def manifests():
    return {DEPLOY / "kubernetes" / name: plain(name) for name in PLAIN}


def write():
    # The manifests are rendered from the chart, so that goes first.
    for make in (derived, manifests):
        for path, text in make().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path.relative_to(DEPLOY.parent))


# --- Checks ------------------------------------------------------------------------------------------------------


def when(value):
    """What a word is that YAML may have taken for a truth."""
    return {True: "on", False: "off"}.get(value, value)


def check_current():
    for path, text in {**derived(), **manifests()}.items():
        current = path.exists() and path.read_text() == text
        expect(current, f"{path.relative_to(DEPLOY.parent)} is current: `cargo xtask deploy --write` makes it so")


def check_lint(values, name):
    report = helm.lint(CHART, values, strict=True)
    said = [message for message in report["messages"] if message["severity"] > INFO]
    expect(not said and not report["errors"], f"{name}: helm lint has nothing to say: {said}")


def check_pod(docs, values, name):
    pod = only(docs, "DaemonSet")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    security = container["securityContext"]
    netns = bool(values["netns"])
    capabilities = ["BPF", "NET_ADMIN", "PERFMON"] + ["SYS_ADMIN", "SYS_PTRACE"] * netns + values["extraCapabilities"]
    expected = {
        "runAsUser": 0,
        "runAsGroup": 0,
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
        "seccompProfile": values["seccompProfile"],
    }
    shipped = json.loads((DEPLOY / "security-context.json").read_text())
    if name == DEFAULTS:
        expect(shipped == {"hostNetwork": pod["hostNetwork"], "securityContext": security}, "security-context.json is the chart's")
    if values["appArmorProfile"]:
        expected["appArmorProfile"] = values["appArmorProfile"]
    expect(security == expected, f"{name}: the container may do no more than {expected}, and not {security}")
    expect(pod["hostNetwork"] is True and pod.get("hostPID", False) == netns, f"{name}: the host's network, and no more")
    expect("hostIPC" not in pod and "securityContext" not in pod, f"{name}: nothing for the pod as a whole")
    kinds = [set(volume) - {"name"} for volume in pod["volumes"]]
    expect(kinds == [{"configMap"}], f"{name}: nothing of the host is mounted: {kinds}")
    api = when(values["kubernetes"]["mode"]) != "off"
    expect(pod["automountServiceAccountToken"] == api, f"{name}: a token where there is something to ask")
    if values["listen"]["address"].startswith("127."):
        hosts = {container[probe]["httpGet"].get("host") for probe in ("livenessProbe", "readinessProbe")}
        expect(hosts == {values["listen"]["address"]}, f"{name}: probes ask on loopback")


def check_config(docs, values, name):
    config = tomllib.loads(only({k: v for k, v in docs.items() if "-" not in k[1]}, "ConfigMap")["data"]["wstap.toml"])
    expected = {**values["config"], "kubernetes": when(values["kubernetes"]["mode"])}
    if "connections-endpoint" in expected:
        expected["connections-endpoint"] = when(expected["connections-endpoint"])
    if values["kubernetes"]["services"]:
        expected["kubernetes-services"] = True
    if values["netns"]:
        expected["netns"] = values["netns"]
    expect(config == expected, f"{name}: the agent is told {expected}, and not {config}")


def check_roles(docs, values, name):
    rules = [rule for (kind, _), doc in docs.items() if kind == "ClusterRole" for rule in doc["rules"]]
    said = {resource: rule["verbs"] for rule in rules for resource in rule["resources"]}
    expected = {}
    if values["rbac"]["create"] and when(values["kubernetes"]["mode"]) != "off":
        expected = {"pods": ["list", "watch"], "replicasets": ["get"], "jobs": ["get"]}
        if values["kubernetes"]["services"]:
            expected["services"] = ["list", "watch"]
    expect(said == expected, f"{name}: the role is {expected}, and not {said}")


def check_values():
    defaults = yaml.load((CHART / "values.yaml").read_text(), Loader=Unique)
    cases = {DEFAULTS: {}}
    for path in sorted((HERE / "values").glob("*.yaml")):
        cases[path.name] = yaml.load(path.read_text(), Loader=Unique)
    for name, values in cases.items():
        check_lint(values, name)
        docs = documents(render(values))
        with helm.Chart.load(CHART) as chart:
            merged = chart.merge_values(values)
        versions = [APPARMOR if merged["appArmorProfile"] else OLDEST, NEWEST]
        validate(docs, versions, name)
        check_pod(docs, merged, name)
        check_config(docs, merged, name)
        check_roles(docs, merged, name)
        print(f"{name}: {len(docs)} objects are valid for {' and '.join(versions)}")
    for name in PLAIN:
        docs = list(yaml.load_all((DEPLOY / "kubernetes" / name).read_text(), Loader=Unique))
        validate({(doc["kind"], doc["metadata"]["name"]): doc for doc in docs}, [OLDEST, NEWEST], name)
        print(f"{name}: {len(docs)} objects are valid")
    return defaults


def check_refusals():
    refused = yaml.safe_load((HERE / "refused.yaml").read_text())
    for case in refused:
        values, names = case["values"], case["names"]
        try:
            render(values)
            expect(False, f"{values} is refused")
        except helm.HelmValuesError as error:
            expect(names in str(error), f"{names} is named in the refusal of {values}: {error}")
    print(f"{len(refused)} wrong values are refused, and named")


def keys(tree, path=""):
    """The paths of all keys whose values a schema with `properties` describes."""
    for key, below in tree.get("properties", {}).items():
        yield f"{path}{key}"
        if below.get("type") == "object":
            yield from keys(below, f"{path}{key}.")


def check_documented(defaults):
    """That each value has its default in values.yaml, and each line there its comment."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    free = {"config", "resources", "updateStrategy", "seccompProfile", "appArmorProfile", "global"}
    for path in keys(schema):
        parts = path.split(".")
        if parts[0] in free:
            continue
        at = defaults
        for part in parts:
            at = at.get(part) if isinstance(at, dict) else None
        expect(at is not None, f"values.yaml has a default for {path}")
    above = None
    for number, line in enumerate((CHART / "values.yaml").read_text().split("\n"), 1):
        key = re.match(r"( *)([a-zA-Z]+):", line)
        if key and len(key[1]) <= 2 and not re.match(r" *(limits|requests|type|rollingUpdate|kubernetes|create|enabled):", line):
            commented = above is not None and (above.lstrip().startswith("#") or len(key[1]) == 0 and above.strip())
            expect(commented, f"values.yaml:{number}: {key[2]} is explained")
        above = line if line.strip() else None


def check_flags(wstap):
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = set(schema["properties"]["config"]["properties"])
    text = subprocess.run([wstap, "run", "--help"], check=True, capture_output=True, text=True).stdout
    flags = set(re.findall(r"^ +(?:-\w, )?--([a-z-]+)", text, flags=re.MULTILINE)) - ELSEWHERE
    expect(known - flags == set(), f"the schema's config has only flags of `wstap run`: {sorted(known - flags)}")
    expect(flags - known == set(), f"the schema's config has every flag of `wstap run`: {sorted(flags - known)}")
    print(f"{len(known)} flags of the agent may be set by values")
    for path in [None, *sorted((HERE / "values").glob("*.yaml"))]:
        values = yaml.safe_load(path.read_text()) if path else {}
        maps = [doc for doc in documents(render(values)).values() if "wstap.toml" in doc.get("data", {})]
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(maps[0]["data"]["wstap.toml"])
            file.flush()
            # Its exit status is about the machine, too.
            command = [wstap, "check", "-o", "json", "--config", file.name]
            said = subprocess.run(command, capture_output=True, text=True)
        findings = [json.loads(line) for line in said.stdout.splitlines()]
        states = [finding["state"] for finding in findings if finding["requirement"] == "configuration"]
        name = path.name if path else DEFAULTS
        expect(states == ["yes"], f"{name}: the agent takes its configuration: {findings} {said.stderr}")


def check_rules():
    rules = yaml.load((DEPLOY / "prometheus/rules.yaml").read_text(), Loader=Unique)
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    names = [alert["alert"] for alert in alerts]
    expect(len(names) == len(set(names)), "no alert is there twice")
    tests = yaml.load((DEPLOY / "prometheus/rules_test.yaml").read_text(), Loader=Unique)["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    sections = set(re.findall(r"^## (\w+)$", (DOCS / "runbooks.md").read_text(), flags=re.MULTILINE))
    expect(sections == set(names), f"docs/runbooks.md has a section for each alert, and no other: {sections ^ set(names)}")
    for alert in alerts:
        name = alert["alert"]
        outcomes = {bool(case["exp_alerts"]) for case in cases if case["alertname"] == name}
        expect(outcomes == {True, False}, f"{name} is tested to fire and not to fire")
        url = alert["annotations"]["runbook_url"]
        expect(url.endswith(f"docs/runbooks.md#{name.lower()}"), f"{name} leads to its paragraph: {url}")
    # The chart's rule leaves out what it is told to, and takes another address for the runbooks.
    values = {"prometheusRule": {"enabled": True, "except": names[:1], "runbooks": "https://example.com/r"}}
    groups = only(documents(render(values)), "PrometheusRule")["spec"]["groups"]
    expected = copy.deepcopy(alerts[1:])
    for alert in expected:
        alert["annotations"]["runbook_url"] = f"https://example.com/r#{alert['alert'].lower()}"
    expect([rule for group in groups for rule in group["rules"]] == expected, "the chart's alerts are those of rules.yaml")
    print(f"{len(alerts)} alerts have a runbook, and a test for both outcomes")


def check_dashboards():
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        board = json.loads(path.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        expect(len(ids) == len(set(ids)), f"{path.name}: no panel's id is there twice")
        cells = {}
        for panel in board["panels"]:
            at = panel["gridPos"]
            expect(at["x"] + at["w"] <= 24, f"{path.name}: {panel['title']} is within the grid")
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    other = cells.setdefault((x, y), panel["title"])
                    expect(other is panel["title"], f"{path.name}: {panel['title']} is not on {other}")
        names = {variable["name"] for variable in board["templating"]["list"]}
        own = {"__all", "__range", "__rate_interval"}
        used = set(re.findall(r"\$\{?(\w+)", json.dumps(board)))
        expect(used - own == names, f"{path.name}: variables are used and there: {(used - own) ^ names}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check")
    checking.add_argument("--wstap", required=True, help="the binary")
    commands.add_parser("write")
    args = parser.parse_args()
    if args.command == "write":
        return write()
    check_current()
    defaults = check_values()
    check_refusals()
    check_documented(defaults)
    check_flags(args.wstap)
    check_rules()
    check_dashboards()
    if wrong:
        sys.exit(f"{len(wrong)} things are wrong with what is deployed")


if __name__ == "__main__":
    main()
