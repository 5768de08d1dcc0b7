//! Names that only the nodes of a test know: files that are mounted over those in which a process looks names up, in a mount namespace of
//! its own. That takes the rights of root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::machine::see_instead;

/// A name and its address, for nodes that are started with it.
#[derive(Debug)]
pub struct Hosts {
    /// Takes the place of /etc/hosts.
    hosts: PathBuf,
    /// Takes the place of /etc/resolv.conf: nobody is asked beyond the former.
    resolver: PathBuf,
}

impl Hosts {
    /// Files in `folder`; `None` if this process may not mount them.
    pub fn new(folder: &Path) -> Option<Self> {
        let hosts = Self { hosts: folder.join("hosts"), resolver: folder.join("resolv.conf") };
        fs::write(&hosts.resolver, "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n").expect("written");
        hosts.set(&[("probe", "127.0.0.3")]);
        let mut command = Command::new("cat");
        command.arg("/etc/hosts").stdin(Stdio::null()).stderr(Stdio::null());
        hosts.are_for(&mut command);
        let is_seen = |text: Vec<u8>| String::from_utf8_lossy(&text).contains("127.0.0.3 probe");
        command.output().is_ok_and(|output| is_seen(output.stdout)).then_some(hosts)
    }

    /// From now on these are the names that have addresses, and no others.
    pub fn set(&self, names: &[(&str, &str)]) {
        let lines: String = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        // In place: what is mounted is this very file.
        fs::write(&self.hosts, format!("127.0.0.1 localhost\n{lines}")).expect("written");
    }

    /// The command will look names up there.
    pub fn are_for(&self, command: &mut Command) {
        see_instead(command, &self.hosts, c"/etc/hosts");
        see_instead(command, &self.resolver, c"/etc/resolv.conf");
    }
}
