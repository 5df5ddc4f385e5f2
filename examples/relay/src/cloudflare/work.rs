//! Removes at Cloudflare what belongs to agents that are gone, and tries again until
//! it is done.

use std::time::Duration;

use katachi_auth::clock::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ApiError;
use crate::http::App;
use crate::records::cloudflare::{self as rows, Removal};

/// How often the rows are looked at when nothing wakes us.
const EVERY: Duration = Duration::from_secs(30);
/// Time for one removal; another relay does not take it up before.
const LEASE: Duration = Duration::from_secs(60);
/// The first wait after a failure; each further one doubles it.
const FIRST_WAIT: u64 = 5;
/// The longest wait after a failure, in seconds.
const LONGEST_WAIT: u64 = 3600;

/// Works until `stop`.
pub(crate) async fn work(app: App, stop: CancellationToken) {
    let mut every = tokio::time::interval(EVERY);
    let mut told = false;
    loop {
        let next = app.records.write(|tx| {
            let now = SystemClock.now().as_unix();
            rows::next_removal(tx, now, now + LEASE.as_secs())
        });
        match next.await {
            Ok(Some(removal)) if app.cloudflare.is_some() => {
                remove(&app, removal).await;
                continue;
            }
            Ok(Some(_)) if !told => {
                told = true;
                warn!(
                    "tunnels of removed agents are left at Cloudflare: give --cloudflare-account and what belongs to it once more"
                );
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "could not look for tunnels to remove"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.cloudflare_work.notified() => {}
            _ = every.tick() => {}
        }
    }
}

async fn remove(app: &App, removal: Removal) {
    let Some(cloudflare) = &app.cloudflare else {
        return;
    };
    let removing = cloudflare.remove(&removal.agent, &removal.hostname);
    let removed = tokio::time::timeout(LEASE / 2, removing)
        .await
        .unwrap_or_else(|_| Err(ApiError::Unreachable("no answer in time".to_owned())));
    let agent = removal.agent.clone();
    let noted = match removed {
        Ok(()) => {
            info!(agent, "removed its tunnel at Cloudflare");
            app.records.write(move |tx| rows::removed(tx, &agent)).await
        }
        Err(error) => {
            let wait = wait(&error, removal.tries);
            warn!(agent, %error, again_in_seconds = wait, "its tunnel at Cloudflare is not removed yet");
            let due = SystemClock.now().as_unix() + wait;
            let later = app
                .records
                .write(move |tx| rows::try_later(tx, &agent, due));
            later.await
        }
    };
    if let Err(error) = noted {
        warn!(%error, "could not note what became of a tunnel at Cloudflare");
    }
}

/// Seconds until the next try.
fn wait(error: &ApiError, tries: u64) -> u64 {
    let growing = FIRST_WAIT << tries.min(10);
    match error {
        ApiError::Limited(pause) => (pause.as_secs() + 1).max(1),
        _ => growing.min(LONGEST_WAIT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_an_hour_and_follow_what_the_api_says() {
        let away = ApiError::Unreachable(String::new());
        assert_eq!(wait(&away, 0), 5);
        assert_eq!(wait(&away, 3), 40);
        assert_eq!(wait(&away, 60), 3600);
        let limited = ApiError::Limited(Duration::from_secs(7));
        assert_eq!(wait(&limited, 60), 8);
    }
}
