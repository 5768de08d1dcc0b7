//! What a node may be told to do with a directory in which it has not run yet.
//!
//! | the directory | plain | `--found` | `--from` | `--rejoin` |
//! |---|---|---|---|---|
//! | waits for the first start | goes on | founds | begins with the files | comes back |
//! | waits to begin with salvaged state | goes on | founds | begins with the files, if they are others with those | refused |
//! | is being filled with that | refused | refused | begins anew | refused |
//! | waits to come back | goes on | refused | refused | goes on |
//!
//! A node that waits has said nothing but that it is new, so it may still be told otherwise. It may not where what is in the directory
//! would be taken for something else, or what it is told would be done only half. Directories in which a node has run are judged in
//! [`DataDir::open`](super::DataDir::open).

use std::path::Path;

use panch_wire::ids::Incarnation;

use super::{Founding, Identity, IdentityFault, Loss};
use crate::storage::CoreDirectory;

/// Whether this may be done with the directory.
///
/// # Errors
/// Why not, and what to do.
pub(super) fn check(
    path: &Path,
    identity: &Identity,
    loss: Loss,
    begins_with_state: bool,
) -> Result<(), IdentityFault> {
    if identity.incarnation > Incarnation(0) {
        return Ok(());
    }
    if begins_with_state {
        return match identity.rejoining {
            true => Err(IdentityFault::Rejoining { path: path.to_path_buf(), flag: "--from" }),
            false => Ok(()),
        };
    }
    if identity.founding != Founding::default() {
        return match loss == Loss::OfDisk && !identity.rejoining {
            true => Err(IdentityFault::Beginning(path.to_path_buf())),
            false => Ok(()),
        };
    }
    if identity.installing {
        return Err(IdentityFault::HalfFilled(path.to_path_buf()));
    }
    // An earlier version said nothing of it in the identity.
    for core in 0..identity.cores {
        let at = |error| IdentityFault::Io { path: path.to_path_buf(), error };
        if CoreDirectory::is_unbegun(path, core).map_err(at)? {
            return Err(IdentityFault::HalfFilled(path.to_path_buf()));
        }
    }
    Ok(())
}
