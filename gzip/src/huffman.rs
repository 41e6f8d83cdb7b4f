//! Codes of a Huffman tree with a limit to their length.

/// How long the code of each symbol is; 0 for one that does not occur. At least one symbol must occur.
pub(crate) fn lengths(counts: &[u32], longest: u32, lengths: &mut [u8]) {
    lengths.fill(0);
    // Counts in the upper half, symbols in the lower: equal counts are in the order of their symbols.
    let mut order = [0u64; 286];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            order[used] = u64::from(count) << 16 | symbol as u64;
            used += 1;
        }
    }
    let order = &mut order[..used];
    order.sort_unstable();
    let symbol = |n: u64| (n & 0xffff) as usize;
    if used < 2 {
        order.iter().for_each(|&n| lengths[symbol(n)] = 1);
        return;
    }
    let per_length = shape(order, longest);
    // The longest codes go to the rarest symbols.
    let mut rarest = order.iter();
    for length in (1..=longest as usize).rev() {
        for &n in rarest.by_ref().take(per_length[length] as usize) {
            lengths[symbol(n)] = length as u8;
        }
    }
}

/// How many codes of each length there are.
fn shape(order: &[u64], longest: u32) -> [u32; 64] {
    let leaves = order.len();
    // Nodes of the tree above the leaves, in the order in which they were joined, so by their counts.
    let mut joined = [0u64; 286];
    let mut parent_of_leaf = [0u16; 286];
    let mut parent_of_joined = [0u16; 286];
    let (mut leaf, mut node) = (0, 0);
    for new in 0..leaves - 1 {
        for _ in 0..2 {
            let from_leaves = leaf < leaves && (node == new || order[leaf] >> 16 <= joined[node]);
            if from_leaves {
                joined[new] += order[leaf] >> 16;
                parent_of_leaf[leaf] = new as u16;
                leaf += 1;
            } else {
                joined[new] += joined[node];
                parent_of_joined[node] = new as u16;
                node += 1;
            }
        }
    }
    // From the root down. A depth is below 64: counts would have to be Fibonacci numbers, and there are too few bytes.
    let mut depth = [0u8; 286];
    for new in (0..leaves - 2).rev() {
        depth[new] = depth[parent_of_joined[new] as usize] + 1;
    }
    let mut per_length = [0u32; 64];
    for &parent in &parent_of_leaf[..leaves] {
        per_length[depth[parent as usize] as usize + 1] += 1;
    }
    shorten(&mut per_length, longest as usize);
    per_length
}

/// Makes a complete code of it in which none is longer.
fn shorten(per_length: &mut [u32; 64], longest: usize) {
    let too_long: u32 = per_length[longest + 1..].iter().sum();
    if too_long == 0 {
        return;
    }
    per_length[longest + 1..].fill(0);
    per_length[longest] += too_long;
    let one = 1u64 << longest;
    let mut sum: u64 = (1..=longest).map(|length| u64::from(per_length[length]) << (longest - length)).sum();
    // One of the longest and the longest of the others become siblings, below where that was.
    while sum > one {
        per_length[longest] -= 1;
        let other =
            (1..longest).rev().find(|&length| per_length[length] > 0).expect("there are shorter codes");
        per_length[other] -= 1;
        per_length[other + 1] += 2;
        sum -= 1;
    }
}

/// The canonical codes of these lengths, with their first bit lowest.
pub(crate) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut per_length = [0u16; 16];
    for &length in lengths {
        per_length[length as usize] += 1;
    }
    per_length[0] = 0;
    let mut next = [0u16; 16];
    let mut code = 0u16;
    for length in 1..16 {
        code = (code + per_length[length - 1]) << 1;
        next[length] = code;
    }
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0 {
            *code = next[length as usize].reverse_bits() >> (16 - length);
            next[length as usize] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::lengths;

    /// Counts of Fibonacci make the deepest trees: the code stays complete, and none is longer than may be.
    #[test]
    fn codes_are_complete_and_short() {
        let fibonacci = |n: usize| (0..n).fold((1u32, 1u32), |(a, b), _| (b, a.saturating_add(b))).0;
        for longest in [7, 14, 15] {
            for symbols in (2..=40).filter(|symbols| *symbols <= 1 << longest) {
                for counts in [(0..symbols).map(fibonacci).collect(), vec![1u32; symbols]] {
                    let mut found = vec![0; symbols];
                    lengths(&counts, longest, &mut found);
                    let sum: u64 = found.iter().map(|&length| 1 << (longest - u32::from(length))).sum();
                    assert_eq!(sum, 1 << longest, "{symbols} symbols, {longest} bits: {found:?}");
                    assert!(found.iter().all(|length| (1..=longest).contains(&u32::from(*length))));
                }
            }
        }
    }
}
