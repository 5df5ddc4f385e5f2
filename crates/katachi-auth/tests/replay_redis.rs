//! The replay store in real Redis servers that the tests start.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up fails loudly")]

#[cfg(target_os = "linux")]
mod shared;

#[cfg(target_os = "linux")]
mod linux {
    use std::net::TcpListener;
    use std::process::{Child, Command, ExitCode, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    use katachi_auth::replay::{AsyncReplayStore, RedisReplay, SharedLimits, Spend};

    use super::shared::{self, Call, Clock, LIMITS, Load, wait};

    pub(super) fn main() -> ExitCode {
        let missing = Command::new("redis-server")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_err();
        let cases: &[(&'static str, fn())] = &[
            (
                "s09 s10 of many copies at once, on one node and on three, one is fresh",
                copies,
            ),
            (
                "s10 of 66 copies of a signed request over three nodes one has an effect",
                signed_copies,
            ),
            ("the rules of every store", rules),
            ("s11 a full store forgets nothing", fills),
            ("old entries are dropped", rolls),
            (
                "s16 killed and started again under load, nothing acts twice",
                killed_under_load,
            ),
            (
                "s16 a promoted replica that lacks entries begins a new epoch",
                failover,
            ),
            (
                "s16 back at the first primary, which lost entries as a replica",
                failed_back,
            ),
            ("a server that hangs has a deadline", hangs),
            ("s15 a clock that steps re-opens nothing", clock_steps),
            ("deleted nonces and evicting policies are noticed", meddling),
            ("plain text over a network is refused", plain_text),
        ];
        shared::main("redis-server", missing, cases)
    }

    struct Redis {
        directory: tempfile::TempDir,
        port: u16,
        environment: Vec<(String, String)>,
        process: Option<Child>,
    }

    impl Redis {
        fn start() -> Self {
            Self::start_in(Vec::new())
        }

        fn start_in(environment: Vec<(String, String)>) -> Self {
            let mut server = Self {
                directory: tempfile::tempdir().unwrap(),
                port: 0,
                environment,
                process: None,
            };
            server.run();
            server
        }

        fn run(&mut self) {
            for _ in 0..20 {
                if self.port == 0 {
                    let free = TcpListener::bind("127.0.0.1:0").unwrap();
                    self.port = free.local_addr().unwrap().port();
                }
                let mut process = Command::new("redis-server")
                    .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
                    .args([
                        "--appendonly",
                        "yes",
                        "--appendfsync",
                        "everysec",
                        "--save",
                        "",
                    ])
                    .args(["--repl-diskless-sync-delay", "0"])
                    .arg("--dir")
                    .arg(self.directory.path())
                    .envs(self.environment.iter().cloned())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                for _ in 0..500 {
                    let pinged: Result<String, _> = self.ask(&["PING"]);
                    if pinged.is_ok() {
                        self.process = Some(process);
                        return;
                    }
                    if process.try_wait().unwrap().is_some() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                let _ = process.kill();
                process.wait().unwrap();
                self.port = 0;
            }
            panic!("redis-server does not start");
        }

        fn client(&self) -> redis::Client {
            redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap()
        }

        fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
            let mut connection = self
                .client()
                .get_connection_with_timeout(Duration::from_secs(2))?;
            let mut asked = redis::cmd(command[0]);
            asked.arg(&command[1..]);
            asked.query(&mut connection)
        }

        fn follow(&self, other: &Self) {
            let _: String = self
                .ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()])
                .unwrap();
            for _ in 0..500 {
                let info: String = self.ask(&["INFO", "replication"]).unwrap();
                if info.contains("master_link_status:up") {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("the replica does not follow");
        }

        /// Waits until a replica has what `store` wrote.
        async fn has(&self, epoch: &[u8]) {
            for _ in 0..500 {
                let found: Option<Vec<u8>> =
                    self.ask(&["HGET", "{t}:replay:state", "epoch"]).unwrap();
                if found.as_deref() == Some(epoch) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("nothing was replicated");
        }

        fn signal(&self, signal: &str) {
            let pid = self.process.as_ref().unwrap().id().to_string();
            assert!(
                Command::new("kill")
                    .args([signal, &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }

        fn kill(&mut self) {
            if let Some(mut process) = self.process.take() {
                process.kill().unwrap();
                process.wait().unwrap();
            }
        }

        fn store(&self, limits: SharedLimits) -> RedisReplay {
            RedisReplay::new(self.client(), "t", limits)
                .unwrap()
                .deadline(Duration::from_secs(10))
        }

        fn nodes(&self) -> Vec<Arc<RedisReplay>> {
            (0..3).map(|_| Arc::new(self.store(LIMITS))).collect()
        }
    }

    impl Drop for Redis {
        fn drop(&mut self) {
            self.kill();
        }
    }

    fn copies() {
        wait(async {
            let server = Redis::start();
            shared::copies_at_once(&server.nodes()).await;
        });
    }

    fn signed_copies() {
        wait(async {
            let server = Redis::start();
            let nodes = (0..3).map(|_| server.store(LIMITS)).collect();
            shared::signed_copies(nodes).await;
        });
    }

    fn rules() {
        wait(async {
            let server = Redis::start();
            let store = server.store(LIMITS);
            shared::rules(&store).await;
            let before = store.epoch().await.unwrap();
            let after = store.start_new_epoch().await.unwrap();
            assert_ne!(before, after);
            let stale = Call::new(before);
            assert_eq!(stale.spend(&store).await.unwrap(), Spend::StaleEpoch);
            let other_window = server.store(SharedLimits {
                window: 30,
                ..LIMITS
            });
            assert!(Call::new(after).spend(&other_window).await.is_err());
        });
    }

    fn fills() {
        wait(async {
            let server = Redis::start();
            let limits = SharedLimits {
                requests_per_key: 50,
                ..LIMITS
            };
            shared::fills(&server.store(LIMITS), &server.store(limits), 50).await;
            let limits = SharedLimits {
                requests: 150,
                ..LIMITS
            };
            let (store, small) = (server.store(LIMITS), server.store(limits));
            let epoch = store.start_new_epoch().await.unwrap();
            let mut fresh = 0;
            let mut outcome = Spend::Fresh;
            while outcome == Spend::Fresh && fresh < 1000 {
                outcome = Call::new(epoch).spend(&small).await.unwrap();
                fresh += u32::from(outcome == Spend::Fresh);
            }
            assert!(
                outcome == Spend::Full && (150..=300).contains(&fresh),
                "{fresh}"
            );
        });
    }

    fn rolls() {
        wait(async {
            let server = Redis::start();
            let sent = shared::rolls(&server.store(SharedLimits {
                window: 2,
                ..LIMITS
            }))
            .await;
            let mut kept = 0;
            for place in 0..8 {
                kept += server
                    .ask::<usize>(&["SCARD", &format!("{{t}}:replay:nonces:{place}")])
                    .unwrap();
            }
            assert!(kept < sent * 3 / 4, "{kept} of {sent}");
        });
    }

    fn killed_under_load() {
        wait(async {
            let mut server = Redis::start();
            let nodes = server.nodes();
            let load = Load::start(&nodes);
            for _ in 0..3 {
                load.more(50).await;
                server.kill();
                tokio::time::sleep(Duration::from_millis(50)).await;
                server.run();
            }
            load.more(50).await;
            assert!(
                load.refused() > 0,
                "nobody noticed that the server was gone"
            );
            load.end(&*nodes[0]).await;
        });
    }

    fn failover() {
        wait(async {
            let (mut primary, replica) = (Redis::start(), Redis::start());
            let store = primary.store(LIMITS);
            // The first replica gives its primary another identifier, and that an epoch.
            replica.follow(&primary);
            let epoch = store.epoch().await.unwrap();
            replica.has(epoch.as_bytes()).await;
            // A replica is not asked.
            assert!(
                Call::new(epoch)
                    .spend(&replica.store(LIMITS))
                    .await
                    .is_err()
            );
            let mut spent = Vec::new();
            for number in 0..100 {
                if number == 50 {
                    // Nothing more reaches it, not even what waits in a socket.
                    replica.signal("-STOP");
                    let cut: usize = primary.ask(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
                    assert_eq!(cut, 1);
                }
                let call = Call::new(epoch);
                assert_eq!(call.spend(&store).await.unwrap(), Spend::Fresh);
                spent.push(call);
            }
            primary.kill();
            replica.signal("-CONT");
            let _: String = replica.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
            // The control: it does remember the epoch, and lacks entries.
            replica.has(epoch.as_bytes()).await;
            let mut kept = 0;
            for place in 0..8 {
                kept += replica
                    .ask::<usize>(&["SCARD", &format!("{{t}}:replay:nonces:{place}")])
                    .unwrap();
            }
            assert!(kept < 100, "nothing was lost");
            let store = replica.store(LIMITS);
            for call in &spent {
                assert_eq!(call.spend(&store).await.unwrap(), Spend::StaleEpoch);
            }
            let fresh = Call::new(store.epoch().await.unwrap());
            assert_ne!(fresh.epoch, epoch);
            assert_eq!(fresh.spend(&store).await.unwrap(), Spend::Fresh);
        });
    }

    fn failed_back() {
        wait(async {
            let (first, second) = (Redis::start(), Redis::start());
            let store = first.store(LIMITS);
            second.follow(&first);
            let epoch = store.epoch().await.unwrap();
            second.has(epoch.as_bytes()).await;
            // The second is promoted without what the first accepts from here on, and
            // nobody spends there: its data still name the first's process.
            let _: String = second.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
            let call = Call::new(epoch);
            assert_eq!(call.spend(&store).await.unwrap(), Spend::Fresh);
            first.follow(&second);
            let _: String = first.ask(&["REPLICAOF", "NO", "ONE"]).unwrap();
            first.has(epoch.as_bytes()).await;
            assert_eq!(call.spend(&store).await.unwrap(), Spend::StaleEpoch);
        });
    }

    fn hangs() {
        wait(async {
            let mut server = Redis::start();
            let deadline = Duration::from_millis(400);
            let store = server.store(LIMITS).deadline(deadline);
            let call = Call::new(store.epoch().await.unwrap());
            server.signal("-STOP");
            shared::gives_up_in_time(&store, &call, deadline).await;
            server.signal("-CONT");
            tokio::time::sleep(Duration::from_millis(100)).await;
            // What was sent may have been done meanwhile: fresh at most once.
            let after = call.spend(&store).await.unwrap();
            assert!(matches!(after, Spend::Fresh | Spend::Replayed));
            assert_eq!(call.spend(&store).await.unwrap(), Spend::Replayed);
            server.kill();
            shared::gives_up_in_time(&store, &call, deadline).await;
        });
    }

    fn clock_steps() {
        wait(async {
            let clock = Clock::new();
            let server = Redis::start_in(clock.environment());
            shared::clock_steps(&server.store(LIMITS), &clock).await;
        });
    }

    fn meddling() {
        wait(async {
            let server = Redis::start();
            let store = server.store(LIMITS);
            let call = Call::new(store.epoch().await.unwrap());
            assert_eq!(call.spend(&store).await.unwrap(), Spend::Fresh);
            for place in 0..8 {
                let _: usize = server
                    .ask(&["DEL", &format!("{{t}}:replay:nonces:{place}")])
                    .unwrap();
            }
            assert_eq!(call.spend(&store).await.unwrap(), Spend::StaleEpoch);
            let call = Call::new(store.epoch().await.unwrap());
            assert_eq!(call.spend(&store).await.unwrap(), Spend::Fresh);
            let _: String = server.ask(&["FLUSHALL"]).unwrap();
            assert_eq!(call.spend(&store).await.unwrap(), Spend::StaleEpoch);

            let _: String = server
                .ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
                .unwrap();
            let error = store.epoch().await.unwrap_err().to_string();
            assert!(error.contains("maxmemory-policy"), "{error}");
            let _: String = server
                .ask(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"])
                .unwrap();
            assert!(store.epoch().await.is_ok());
        });
    }

    fn plain_text() {
        for (address, is_safe) in [
            ("redis://db.example.com", false),
            ("redis://10.0.0.1:6379", false),
            ("redis://localhost", true),
            ("redis://[::1]:6379", true),
            ("redis+unix:///run/redis.sock", true),
        ] {
            let client = redis::Client::open(address).unwrap();
            assert_eq!(
                RedisReplay::new(client, "t", LIMITS).is_ok(),
                is_safe,
                "{address}"
            );
        }
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {}
