//! Reverse proxies of other makes between a client and a server, each in a namespace of its own.

use std::{fs, net::SocketAddr, time::Duration};

use tempfile::TempDir;

use super::{agent::Process, eventually, netns::Netns, row::Row};

/// A proxy that runs until this is dropped.
pub struct Proxy {
    _process: Process,
    _folder: TempDir,
}

impl Proxy {
    /// nginx, which gives up a tunnel whose server is silent for `patience`.
    #[track_caller]
    pub fn nginx(row: &Row, patience: Duration) -> Self {
        Self::nginx_between(&row.middle, Row::front(), Row::back(), patience)
    }

    /// The same in `ns`, which listens on `front` and passes on to `back`.
    #[track_caller]
    pub fn nginx_between(
        ns: &Netns,
        front: SocketAddr,
        back: SocketAddr,
        patience: Duration,
    ) -> Self {
        let patience = patience.as_millis();
        // One process, which writes nothing outside of its folder.
        Self::start(ns, front, "nginx", &["-e", "stderr", "-c"], |folder| {
            let own = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {folder}/{kind};"))
                .concat();
            format!(
                "user root;\ndaemon off;\nmaster_process off;\npid {folder}/pid;\n\
                 events {{}}\nhttp {{\naccess_log off;\n{own}\nserver {{\nlisten {front};\n\
                 location / {{\nproxy_pass http://{back};\nproxy_http_version 1.1;\n\
                 proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection upgrade;\n\
                 proxy_read_timeout {patience}ms;\n}}\n}}\n}}\n"
            )
        })
    }

    /// HAProxy in `mode` http or tcp, which gives up a tunnel that is silent for `patience`;
    /// `server` are further words of its `server` line.
    #[track_caller]
    pub fn haproxy(row: &Row, mode: &str, server: &str, patience: Duration) -> Self {
        let (front, back, patience) = (Row::front(), Row::back(), patience.as_millis());
        Self::start(&row.middle, front, "haproxy", &["-db", "-f"], |_| {
            format!(
                "global\nnbthread 1\ndefaults\nmode {mode}\ntimeout connect 5s\n\
                 timeout client 60s\ntimeout server 60s\ntimeout tunnel {patience}ms\n\
                 listen hop\nbind {front}\nserver upstream {back} {server}\n"
            )
        })
    }

    fn start(
        ns: &Netns,
        front: SocketAddr,
        program: &str,
        flags: &[&str],
        config: impl Fn(&str) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config");
        let config = config(folder.path().to_str().expect("a path in UTF-8"));
        fs::write(&path, config).expect("a file");
        let mut command = ns.command(program);
        command.args(flags).arg(&path);
        let mut process = Process::spawn(command);
        let listening = front.to_string();
        eventually("the proxy listens", Duration::from_secs(10), || {
            process.must_live();
            let sockets = ns.run("ss", &["-Hltn"]);
            sockets.contains(&listening).then_some(()).ok_or(sockets)
        });
        Self {
            _process: process,
            _folder: folder,
        }
    }
}
