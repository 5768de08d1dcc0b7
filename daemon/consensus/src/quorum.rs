//! Quorum arithmetic (protocols: table of sizes; Fast Paxos §3.1 for the fast quorum).

/// Votes that decide in a classic round, and promises that open one: a majority.
pub fn classic_quorum(replica_count: usize) -> usize {
    replica_count / 2 + 1
}

/// Votes for one value that decide in a fast round: `ceil(3n/4)`, the least number for which any two fast quorums and any
/// classic quorum have a member in common [Fast Paxos §3.1, O3].
pub fn fast_quorum(replica_count: usize) -> usize {
    (3 * replica_count).div_ceil(4)
}

/// The value that at least a classic quorum of `values` (one per replica) has reached: the quorum-th largest.
pub fn reached_by_quorum<T: Ord + Copy>(values: &[T]) -> T {
    let mut sorted = [None; panch_wire::ids::REPLICAS_MAX];
    let count = values.len();
    for (place, value) in sorted.iter_mut().zip(values) {
        *place = Some(*value);
    }
    sorted[..count].sort_unstable();
    sorted[count - classic_quorum(count)].expect("a group has at least one replica")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_the_published_ones() {
        let table = include_str!("../testdata/quorum_sizes.txt");
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<usize>().unwrap());
            let (n, classic) = (numbers.next().unwrap(), numbers.next().unwrap());
            assert_eq!(classic_quorum(n), classic, "n = {n}");
            assert_eq!(fast_quorum(n), numbers.next().unwrap(), "n = {n}");
        }
    }

    #[test]
    fn a_fast_quorum_is_the_least_that_shares_a_member_with_another_and_a_classic_one() {
        for n in 1..=panch_wire::ids::REPLICAS_MAX {
            let meets = |fast: usize| 2 * fast + classic_quorum(n) > 2 * n;
            assert!(meets(fast_quorum(n)) && !meets(fast_quorum(n) - 1), "n = {n}");
        }
    }

    #[test]
    fn a_value_is_reached_when_a_majority_has_it() {
        assert_eq!(reached_by_quorum(&[7]), 7);
        assert_eq!(reached_by_quorum(&[9, 1, 5]), 5);
        assert_eq!(reached_by_quorum(&[0, 0, 9]), 0);
        assert_eq!(reached_by_quorum(&[4, 3, 2, 1, 0]), 2);
        assert_eq!(reached_by_quorum(&[4, 3, 2, 1]), 2);
    }
}
