//! Tells the program which commit it is built from, as `PANCH_COMMIT`, unless whoever builds it has said so. Where there is no git, or no
//! repository, it is not known, and nothing fails.

use std::path::Path;
use std::process::{Command, Stdio};

fn git(arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn main() {
    println!("cargo::rerun-if-env-changed=PANCH_COMMIT");
    // What the program is made of; and what changes with each commit, checkout and reset.
    let own = ["src", "build.rs", "Cargo.toml", "../Cargo.lock", "../daemon/ring/src", "../daemon/wire/src"];
    for path in own {
        println!("cargo::rerun-if-changed={path}");
    }
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for path in ["HEAD", "logs/HEAD"].into_iter().chain(branch.as_deref()) {
        let path = git(&["rev-parse", "--git-path", path]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if std::env::var_os("PANCH_COMMIT").is_none()
        && let Some(commit) = git(&["describe", "--always", "--dirty", "--abbrev=12"])
    {
        println!("cargo::rustc-env=PANCH_COMMIT={commit}");
    }
}
