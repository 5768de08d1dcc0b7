use super::*;
use crate::random::Concern;

const FILE: Name = Name::Segment(1);

fn disk() -> Disk<()> {
    Disk::new(Stream::new(3, Concern::Disk(0)), Latency::default())
}

/// Runs a job to its end.
fn run(disk: &mut Disk<()>, steps: impl IntoIterator<Item = Step>) -> bool {
    let (id, mut at) = disk.submit(0, Job::new((), steps));
    loop {
        match disk.advance(at, id) {
            Progress::Until(next) => at = next,
            Progress::Ended((), succeeded) => return succeeded,
            Progress::Gone => unreachable!("nothing crashed"),
        }
    }
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; PAGE_SIZE]
}

fn stable_file(disk: &mut Disk<()>, pages: &[u8]) -> FileId {
    let file = disk.create(0);
    let bytes: Vec<u8> = pages.iter().flat_map(|byte| page(*byte)).collect();
    let written = disk.write(file, 0, [bytes.as_slice()].into_iter());
    assert!(run(disk, [Step::WriteStable(written), Step::Link(file, FILE), Step::SyncDirectory]));
    file
}

fn first_bytes(disk: &Disk<()>, file: FileId, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count * PAGE_SIZE];
    disk.read(file, 0, &mut bytes);
    bytes.chunks(PAGE_SIZE).map(|page| page[0]).collect()
}

#[test]
fn stable_pages_and_names_survive_power_failures() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[1, 2, 3]);
    for _ in 0..20 {
        disk.crash(CrashKind::Power);
        assert_eq!(disk.open(FILE), Some(file));
        assert_eq!(first_bytes(&disk, file, 4), [1, 2, 3, 0]);
    }
}

#[test]
fn each_unstable_page_is_kept_lost_or_torn_on_its_own() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[1; 64]);
    let bytes = vec![2; 64 * PAGE_SIZE];
    let _ = disk.write(file, 0, [bytes.as_slice()].into_iter());
    assert_eq!(first_bytes(&disk, file, 64), [2; 64], "written bytes are visible at once");
    disk.crash(CrashKind::Power);
    let after = first_bytes(&disk, file, 64);
    assert!(after.contains(&1) && after.contains(&2), "{after:?}");
    assert!(disk.counters.torn_pages > 0);
    // What a power failure left is what there is.
    disk.crash(CrashKind::Power);
    assert_eq!(first_bytes(&disk, file, 64), after);
}

#[test]
fn a_killed_process_leaves_completed_writes_visible_but_not_stable() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut disk: Disk<()> = Disk::new(Stream::new(seed, Concern::Disk(0)), Latency::default());
        let file = stable_file(&mut disk, &[1]);
        let bytes = page(2);
        let written = disk.write(file, 0, [bytes.as_slice()].into_iter());
        assert!(run(&mut disk, [Step::Write(written)]));
        disk.crash(CrashKind::Kill);
        assert_eq!(first_bytes(&disk, file, 1), [2]);
        disk.crash(CrashKind::Power);
        lost += usize::from(first_bytes(&disk, file, 1) != [2]);
    }
    assert!(lost > 0);
}

#[test]
fn sync_covers_what_was_written_before_it_began() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[0; 40]);
    let bytes = vec![7; 20 * PAGE_SIZE];
    let _ = disk.write(file, 0, [bytes.as_slice()].into_iter());
    let (id, at) = disk.submit(0, Job::new((), [Step::Sync(file)]));
    let _ = disk.write(file, 20 * PAGE_SIZE as u64, [bytes.as_slice()].into_iter());
    assert!(matches!(disk.advance(at, id), Progress::Ended((), true)));
    disk.crash(CrashKind::Power);
    let after = first_bytes(&disk, file, 40);
    assert_eq!(after[..20], [7; 20]);
    assert_ne!(after[20..], [7; 20]);
}

#[test]
fn names_that_were_not_synced_may_be_lost_in_order() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..40 {
        let mut disk: Disk<()> = Disk::new(Stream::new(seed, Concern::Disk(0)), Latency::default());
        stable_file(&mut disk, &[1]);
        assert!(run(
            &mut disk,
            [Step::Rename(FILE, Name::Segment(2)), Step::Rename(Name::Segment(2), Name::Segment(3))]
        ));
        disk.crash(CrashKind::Power);
        let names: Vec<Name> = disk.names().collect();
        assert_eq!(names.len(), 1);
        kept += usize::from(names[0] == Name::Segment(3));
        lost += usize::from(names[0] == FILE);
    }
    assert!(kept > 0 && lost > 0);
}

#[test]
fn a_failed_write_is_not_stable_and_a_crash_forgets_jobs() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[1; 40]);
    let bytes = vec![2; 40 * PAGE_SIZE];
    let written = disk.write(file, 0, [bytes.as_slice()].into_iter());
    disk.fail_next();
    assert!(!run(&mut disk, [Step::WriteStable(written)]));
    let (id, at) = disk.submit(0, Job::new((), [Step::Sync(file)]));
    disk.crash(CrashKind::Power);
    assert!(first_bytes(&disk, file, 40).contains(&1));
    assert!(matches!(disk.advance(at, id), Progress::Gone));
}

#[test]
fn nothing_ends_during_a_stall() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[1]);
    let (id, at) = disk.submit(0, Job::new((), [Step::Sync(file)]));
    disk.stall(at + 1000);
    assert!(matches!(disk.advance(at, id), Progress::Until(later) if later >= at + 1000));
}

#[test]
fn a_disk_that_hangs_goes_on_where_it_stood() {
    let mut disk = disk();
    let file = disk.create(0);
    let written = disk.write(file, 0, [page(1).as_slice()].into_iter());
    disk.hung = true;
    let (id, mut at) = disk.submit(0, Job::new((), [Step::WriteStable(written)]));
    for _ in 0..100 {
        let Progress::Until(next) = disk.advance(at, id) else { panic!("nothing ends") };
        assert!(next > at);
        at = next;
    }
    disk.heal(Latency::default());
    assert!(matches!(disk.advance(at, id), Progress::Ended((), true)));
}

#[test]
fn what_cannot_be_read_fails_and_nothing_else_does() {
    let mut disk = disk();
    let file = stable_file(&mut disk, &[1]);
    disk.unreadable = true;
    assert!(!run(&mut disk, [Step::Read]));
    assert!(run(&mut disk, [Step::Sync(file)]));
    disk.unreadable = false;
    assert!(run(&mut disk, [Step::Read]));
}
