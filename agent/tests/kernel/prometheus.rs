//! What is served is what Prometheus reads.

use std::{
    collections::BTreeSet,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    Pair, at,
    endings::{ACCEPTED, answered, must_read, reset},
    support::{
        agent::{Agent, Process},
        eventually,
        load::{Load, Script},
        machine::turn,
        netns::Netns,
    },
};

#[test]
fn promtool_has_nothing_to_say() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let script = Script::default();
    let load = Load::open(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        script.clone(),
    );
    load.exchange(10);
    let over = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V6),
        at(Pair::V6),
        script,
        10,
    );
    eventually(
        "both kinds of series are there",
        Duration::from_secs(10),
        || {
            let closed = agent.tally().closed == over.closed;
            let frames = agent
                .metrics()
                .sum("websocket_connection_frames_total", &[])
                > 0;
            if closed && frames {
                Ok(())
            } else {
                Err(agent.scrape())
            }
        },
    );

    let text = agent.scrape();
    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut promtool = promtool
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    let mut stdin = promtool.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
    assert!(
        output.status.success() && said.concat().is_empty(),
        "{said:?}\n{text}"
    );
    load.close();
}

/// A Prometheus that scrapes an agent once a second.
struct Prometheus<'a> {
    ns: &'a Netns,
    web: SocketAddr,
    process: Process,
    _folder: tempfile::TempDir,
}

impl<'a> Prometheus<'a> {
    /// Starts it beside the agent.
    #[track_caller]
    fn scraping(ns: &'a Netns, agent: &Agent<'_>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n- job_name: wstap\n  static_configs: [{{ targets: ['{}'] }}]\n",
            deployed("prometheus/rules.yaml").display(),
            agent.listen
        );
        std::fs::write(&config, text).expect("a file");
        let web = SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            ns.free_port(Ipv4Addr::LOCALHOST.into()),
        ));
        let mut command = ns.command("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ));
        command.arg(format!("--web.listen-address={web}"));
        Self {
            ns,
            web,
            process: Process::spawn(command),
            _folder: folder,
        }
    }

    /// What its API says.
    fn get(&mut self, path: &str) -> Result<Value, String> {
        self.process.must_live();
        let answer = self.ns.http_get(self.web, &format!("/api/v1/{path}"));
        let (_, body) = answer.map_err(|error| error.to_string())?;
        // Chunks have their lengths around them: the object is what counts.
        let (from, to) = (body.find('{'), body.rfind('}'));
        let json = from
            .zip(to)
            .and_then(|(from, to)| body.get(from..=to))
            .unwrap_or("");
        serde_json::from_str(json).map_err(|error| format!("{error}: {body}"))
    }

    /// The values that it has for a query.
    fn query(&mut self, query: &str) -> Result<Vec<f64>, String> {
        let mut escaped = String::new();
        for byte in query.bytes() {
            escaped.push_str(&format!("%{byte:02x}"));
        }
        let answer = self.get(&format!("query?query={escaped}"))?;
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let result = answer["data"]["result"].as_array();
        let values = result.into_iter().flatten();
        let values = values.filter_map(|series| series["value"][1].as_str()?.parse().ok());
        Ok(values.collect())
    }
}

/// A file of those that are shipped.
fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

#[test]
fn prometheus_scrapes_and_answers() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.client, "");
    let mut prometheus = Prometheus::scraping(&pair.client, &agent);

    let tally = Load::whole(
        &pair.client,
        &pair.server,
        at(Pair::V4),
        at(Pair::V4),
        Script::default(),
        30,
    );
    let expected = tally.client_to_server.total() + tally.server_to_client.total();
    let mut ask = |query: &str, expected: u64| {
        let what = format!("Prometheus answers {expected} to {query}");
        eventually(&what, Duration::from_secs(30), || {
            let values = prometheus.query(query)?;
            if values == [expected as f64] {
                Ok(())
            } else {
                Err(format!("{values:?}"))
            }
        });
    };
    ask("up", 1);
    ask("sum(websocket_frames_total)", expected);
    ask("sum(websocket_connections_closed_total{kind=\"clean\"})", 3);
    ask("sum(websocket_connections_active)", 0);
}

/// The queries of a dashboard, with the values that its variables have at first, and over seconds where
/// it would look at minutes.
fn dashboard_queries(name: &str) -> Vec<String> {
    let path = deployed(&format!("grafana/{name}"));
    let text = std::fs::read_to_string(&path).expect("a dashboard");
    let board: Value = serde_json::from_str(&text).expect("JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let variables = list(&board["templating"]["list"]);
    let filled = |query: &str| {
        let mut query = query
            .replace("$__rate_interval", "10s")
            .replace("$__range", "60s");
        for variable in &variables {
            let name = variable["name"].as_str().expect("a name");
            let value = variable["allValue"].as_str();
            let value = value.or_else(|| variable["current"]["value"].as_str());
            if let Some(value) = value {
                query = query.replace(&format!("${name}"), value);
            }
        }
        assert!(!query.contains('$'), "{query}");
        query
    };
    let mut queries = Vec::new();
    for panel in list(&board["panels"]) {
        for target in list(&panel["targets"]) {
            queries.push(filled(target["expr"].as_str().expect("a query")));
        }
    }
    for variable in &variables {
        let values = variable["query"]["query"].as_str().unwrap_or_default();
        if let Some(arguments) = values.strip_prefix("label_values(") {
            let (series, label) = arguments.rsplit_once(", ").expect("series and a label");
            let label = label.trim_end_matches(')');
            queries.push(filled(&format!("count by ({label}) ({series})")));
        }
    }
    queries
}

/// Whether a query is for what is there with Kubernetes alone.
fn is_of_kubernetes(query: &str) -> bool {
    query.contains("wstap_kubernetes_")
}

/// Every metric in a query with what is in braces behind it.
fn selectors(query: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = ["websocket_", "wstap_", "process_"]
        .iter()
        .filter_map(|prefix| rest.find(prefix))
        .min()
    {
        rest = &rest[at..];
        let name = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let end = match rest[name..].strip_prefix('{') {
            Some(labels) => name + 1 + labels.find('}').expect("a closing brace") + 1,
            None => name,
        };
        found.push(rest[..end].to_owned());
        rest = &rest[end..];
    }
    found
}

/// All kinds of things that may happen to a WebSocket, once each.
fn happenings(pair: &Pair) {
    let script = Script::default();
    let (client, server) = (&pair.client, &pair.server);
    Load::whole(client, server, at(Pair::V6), at(Pair::V6), script, 10);
    drop(answered(
        pair,
        at(Pair::V4),
        "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    ));
    let (mut client, mut server) = answered(pair, at(Pair::V4), ACCEPTED);
    // A ping that nobody answers, a message, and a frame with an opcode that nobody has defined.
    let frames = [&[0x89, 1, b'?'][..], &[0x81, 1, b'x'], &[0x83, 0]].concat();
    server.write_all(&frames).expect("an open connection");
    must_read(&mut client, frames.len());
    reset(server);
    drop(client);
}

#[test]
fn queries_that_are_shipped_are_answered() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let agent = Agent::run(&pair.server, "");
    let mut prometheus = Prometheus::scraping(&pair.server, &agent);
    let open = Load::open(
        &pair.client,
        &pair.server,
        at("10.77.0.2:9090"),
        at("10.77.0.2:9090"),
        Script::default(),
    );

    let mut waiting: BTreeSet<String> = ["operators.json", "agents.json"]
        .into_iter()
        .flat_map(dashboard_queries)
        .collect();
    assert!(waiting.len() > 60, "{}", waiting.len());
    let mut rules = 0;
    eventually(
        "every query has an answer, and every rule is well",
        Duration::from_secs(60),
        || {
            happenings(&pair);
            let answer = prometheus.get("rules")?;
            let groups = answer["data"]["groups"].as_array();
            let of = |group: &Value| group["rules"].as_array().cloned().unwrap_or_default();
            let all: Vec<Value> = groups.into_iter().flatten().flat_map(of).collect();
            if rules == 0 {
                rules = all.len();
                let queries = all.iter().filter_map(|rule| rule["query"].as_str());
                waiting.extend(queries.flat_map(selectors));
                waiting.retain(|query| !is_of_kubernetes(query));
            }
            let ill: Vec<_> = all.iter().filter(|rule| rule["health"] != "ok").collect();
            let mut unanswered = BTreeSet::new();
            for query in &waiting {
                let values = prometheus.query(query)?;
                if !values.iter().any(|value| value.is_finite()) {
                    unanswered.insert(query.clone());
                }
            }
            waiting = unanswered;
            if rules > 0 && ill.is_empty() && waiting.is_empty() {
                Ok(())
            } else {
                thread::sleep(Duration::from_millis(500));
                Err(format!(
                    "{rules} rules, ill: {ill:?}, without an answer: {waiting:#?}"
                ))
            }
        },
    );
    open.close();
}
