//! What was accepted before: in memory, or shared by the nodes of a cluster.

use katachi_auth::replay::{
    AsyncReplayStore, Epoch, MemoryReplay, PostgresReplay, ReplayStore as _, Spend, Spending,
    Unavailable,
};

/// The replay store of this relay.
#[derive(Debug)]
pub(crate) enum Replay {
    Memory(Box<MemoryReplay>),
    Shared(Box<PostgresReplay>),
}

impl AsyncReplayStore for Replay {
    async fn epoch(&self) -> Result<Epoch, Unavailable> {
        match self {
            Self::Memory(store) => store.epoch(),
            Self::Shared(store) => store.epoch().await,
        }
    }

    async fn spend(&self, spending: &Spending<'_>) -> Result<Spend, Unavailable> {
        match self {
            Self::Memory(store) => store.spend(spending),
            Self::Shared(store) => store.spend(spending).await,
        }
    }
}
