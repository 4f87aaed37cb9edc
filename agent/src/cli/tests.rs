use std::collections::BTreeSet;

use super::*;

fn parse(line: &str) -> Result<Command, clap::Error> {
    let args = ["wstap"].into_iter().chain(line.split_whitespace());
    Cli::from_args(args.map(OsString::from)).map(|cli| cli.command)
}

fn flags(name: &str) -> BTreeSet<String> {
    let command = command();
    let command = command.find_subcommand(name).unwrap();
    let longs = command.get_arguments().filter_map(|arg| arg.get_long());
    longs.map(str::to_owned).collect()
}

#[test]
fn the_definition_is_consistent() {
    command().debug_assert();
}

#[test]
fn every_flag_of_run_has_its_variable_and_no_other_command_has_any() {
    for command in command().get_subcommands() {
        for arg in command.get_arguments() {
            let env = arg.get_env().map(|env| env.to_str().unwrap().to_owned());
            let expected = arg.get_long().filter(|_| command.get_name() == "run");
            let expected = expected.map(|long| format!("WSTAP_{}", long.to_uppercase()));
            assert_eq!(env, expected.map(|env| env.replace('-', "_")));
        }
    }
}

#[test]
fn commands_have_the_flags_of_the_contract() {
    let capture = [
        "interface",
        "exclude-interface",
        "port",
        "ring-buffer",
        "max-connections",
        "idle-timeout",
        "attach",
    ];
    let selection = [
        "client",
        "server",
        "host",
        "path",
        "direction",
        "opcode",
        "close-code",
        "min-size",
        "event",
        "count",
        "duration",
        "output",
        "payload",
        "color",
    ];
    let run = [
        "listen",
        "connection-series",
        "max-endpoints",
        "path-label",
        "series-linger",
        "connections-endpoint",
        "kubernetes",
        "node-name",
        "kubernetes-services",
        "max-pods",
    ];
    for (command, lists) in [
        ("run", [&capture[..], &run]),
        ("trace", [&capture, &selection]),
        ("read", [&selection, &["summary", "metrics"]]),
    ] {
        let flags = flags(command);
        for flag in lists.concat() {
            assert!(flags.contains(flag), "{command} --{flag}");
        }
    }
}

#[test]
fn short_flags_are_those_of_the_contract() {
    assert!(parse("trace -i lo -p 80 -n 1 -o json -vv").is_ok());
    assert!(parse("run -i lo -p 80 -v").is_ok());
    assert!(parse("read -n 1 -o text -").is_ok());
}

#[test]
fn the_log_gets_more_with_every_v() {
    use LevelFilter::{Debug, Info, Trace, Warn};
    for (line, level) in [
        ("run", Info),
        ("run -v", Debug),
        ("run -vvvv", Trace),
        ("trace", Warn),
        ("trace -v", Info),
        ("read -vvv x", Trace),
        ("check", Warn),
    ] {
        assert_eq!(parse(line).unwrap().log_level(), level, "{line}");
    }
    let trace = parse("trace --kernel-log debug").unwrap();
    assert_eq!((trace.kernel_log_level(), trace.log_level()), (Debug, Warn));
}

#[test]
fn what_stands_in_place_of_events_takes_no_flags_for_events() {
    for report in ["--summary", "--metrics"] {
        for flag in [
            "-n 1",
            "--event close",
            "-o text",
            "--payload",
            "--opcode ping",
        ] {
            assert!(
                parse(&format!("read {report} {flag} x")).is_err(),
                "{report} {flag}"
            );
        }
        for flag in [
            "--client 10.0.0.1",
            "--path /x",
            "--duration 1s",
            "--color never",
        ] {
            assert!(
                parse(&format!("read {report} {flag} x")).is_ok(),
                "{report} {flag}"
            );
        }
    }
    assert!(parse("read --summary --metrics x").is_err());
}

#[test]
fn a_payload_size_needs_its_equals_sign() {
    let payload = |line| match parse(line).unwrap() {
        Command::Read(args) => args.output.payload,
        other => panic!("{other:?}"),
    };
    assert_eq!(payload("read x"), None);
    assert_eq!(payload("read --payload x"), Some(256));
    assert_eq!(payload("read --payload=1K x"), Some(1024));
    assert!(parse("read --payload=0 x").is_err());
}
