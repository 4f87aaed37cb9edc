//! What is served is what Prometheus reads.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;

use super::{
    Pair, at,
    support::{
        agent::{Agent, Process},
        eventually,
        load::{Load, Script},
        machine::turn,
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

#[test]
fn prometheus_scrapes_and_answers() {
    let Some(_turn) = turn() else { return };
    let pair = Pair::new();
    let ns = &pair.client;
    let agent = Agent::run(ns, "");
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
         scrape_configs:\n- job_name: wstap\n  static_configs: [{{ targets: ['{}'] }}]\n",
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
    let mut prometheus = Process::spawn(command);

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
            prometheus.must_live();
            let answer = ns.http_get(web, &format!("/api/v1/query?query={query}"));
            let (_, body) = answer.map_err(|error| error.to_string())?;
            // Chunks have their lengths around them: the object is what counts.
            let (from, to) = (body.find('{'), body.rfind('}'));
            let json = from
                .zip(to)
                .and_then(|(from, to)| body.get(from..=to))
                .unwrap_or("");
            let json: Value = serde_json::from_str(json).map_err(|e| format!("{e}: {body}"))?;
            let value = json["data"]["result"][0]["value"][1]
                .as_str()
                .map(str::parse::<u64>);
            if value == Some(Ok(expected)) {
                Ok(())
            } else {
                Err(body)
            }
        });
    };
    ask("up", 1);
    ask("sum(websocket_frames_total)", expected);
    ask(
        "sum(websocket_connections_closed_total%7Bkind=%22clean%22%7D)",
        3,
    );
    ask("sum(websocket_connections_active)", 0);
}
