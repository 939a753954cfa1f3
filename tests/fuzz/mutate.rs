//! Changes to inputs that keep some of their structure: text is cut at its values, lines and numbers.

use crate::common::Random;

/// Bytes that mean something to a parser.
const MARKS: &[u8] = b"{}[]():,\"'\\&*!|>-#.%@ \n\t0\0\x7f\x80\xff";

/// Numbers at the edges of types and of limits.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    3,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    511,
    512,
    1023,
    4096,
    65535,
    65536,
    131_071,
    131_072,
    131_073,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    (1 << 53) + 1,
    1 << 60,
    (1 << 61) - 1,
    1 << 61,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 7,
    u64::MAX,
];

/// Makes new inputs of old ones.
pub struct Mutator {
    pub random: Random,
    /// Words that readers know.
    pub dictionary: Vec<Vec<u8>>,
    pub max_bytes: usize,
}

impl Mutator {
    /// Changes `input` in one to six places; `other` lends parts.
    pub fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.random.below(6) * self.random.below(2) {
            self.step(input, other);
        }
        input.truncate(self.max_bytes);
    }

    fn step(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        match self.random.below(14) {
            0 => self.with_byte(input, |random, byte| *byte ^= 1 << random.below(8)),
            1 => self.with_byte(input, |random, byte| *byte = MARKS[random.below(MARKS.len() as u64) as usize]),
            2 => {
                let range = self.range(input.len());
                input.drain(range);
            }
            3 => {
                let part = input[self.range(input.len())].to_vec();
                let at = self.place(input.len());
                input.splice(at..at, part);
            }
            4 => {
                let (word, at) = (self.word(), self.place(input.len()));
                input.splice(at..at, word);
            }
            5 => {
                let (word, range) = (self.word(), self.range(input.len()));
                input.splice(range, word);
            }
            6 | 7 => self.number(input),
            8 => {
                let part = other[self.range(other.len())].to_vec();
                let range = self.range(input.len());
                input.splice(range, part);
            }
            9 => self.field(input),
            10 | 11 => self.value(input, other),
            12 => self.string(input, other),
            _ => self.line(input, other),
        }
    }

    fn place(&mut self, length: usize) -> usize {
        self.random.below(length as u64 + 1) as usize
    }

    /// Mostly short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.place(length);
        let most = if self.random.below(4) == 0 { length } else { 12 };
        let bytes = self.random.below(most as u64 + 1) as usize;
        start..(start + bytes).min(length)
    }

    fn word(&mut self) -> Vec<u8> {
        let at = self.random.below(self.dictionary.len() as u64) as usize;
        self.dictionary[at].clone()
    }

    fn edge(&mut self) -> u64 {
        NUMBERS[self.random.below(NUMBERS.len() as u64) as usize]
    }

    fn with_byte(&mut self, input: &mut [u8], change: impl Fn(&mut Random, &mut u8)) {
        if !input.is_empty() {
            let at = self.random.below(input.len() as u64) as usize;
            change(&mut self.random, &mut input[at]);
        }
    }

    /// Another number where digits stand.
    fn number(&mut self, input: &mut Vec<u8>) {
        let Some(range) = self.pick(&spans(input, u8::is_ascii_digit)) else { return };
        let old: u64 = std::str::from_utf8(&input[range.clone()]).ok().and_then(|t| t.parse().ok()).unwrap_or(0);
        let new = match self.random.below(6) {
            0 => old.wrapping_add(1),
            1 => old.wrapping_sub(1),
            2 => old.wrapping_mul(2),
            3 => old / 2,
            _ => self.edge(),
        };
        input.splice(range, new.to_string().into_bytes());
    }

    /// A number in 1, 2, 3, 4 or 8 bytes.
    fn field(&mut self, input: &mut [u8]) {
        let bytes = [1, 2, 3, 4, 8][self.random.below(5) as usize];
        if input.len() >= bytes {
            let at = self.random.below((input.len() - bytes) as u64 + 1) as usize;
            let number = self.edge().to_le_bytes();
            input[at..at + bytes].copy_from_slice(&number[..bytes]);
        }
    }

    /// One value in the place of another: a word, a string, or all between brackets.
    fn value(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let from = if self.random.below(2) == 0 { input.clone() } else { other.to_vec() };
        let (Some(new), Some(old)) = (self.pick(&values(&from)), self.pick(&values(input))) else { return };
        input.splice(old, from[new].to_vec());
    }

    fn string(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let quoted = |text: &[u8]| values(text).into_iter().filter(|r| text[r.start] == b'"').collect::<Vec<_>>();
        let Some(old) = self.pick(&quoted(input)) else { return };
        let new = if self.random.below(2) == 0 { Some(quoted_word(&self.word())) } else { None };
        let new = new.or_else(|| self.pick(&quoted(other)).map(|r| other[r].to_vec()));
        input.splice(old, new.unwrap_or_default());
    }

    /// A line taken away, doubled, indented, or from elsewhere.
    fn line(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let lines = |text: &[u8]| spans(text, |b| *b != b'\n');
        let Some(line) = self.pick(&lines(input)) else { return };
        let new = match self.random.below(5) {
            0 => Vec::new(),
            1 => [&input[line.clone()], b"\n", &input[line.clone()]].concat(),
            2 => [b"  ", &input[line.clone()]].concat(),
            3 => input[line.clone()].strip_prefix(b"  ").unwrap_or_default().to_vec(),
            _ => self.pick(&lines(other)).map(|r| other[r].to_vec()).unwrap_or_default(),
        };
        input.splice(line, new);
    }

    fn pick(&mut self, ranges: &[std::ops::Range<usize>]) -> Option<std::ops::Range<usize>> {
        (!ranges.is_empty()).then(|| ranges[self.random.below(ranges.len() as u64) as usize].clone())
    }
}

fn quoted_word(word: &[u8]) -> Vec<u8> {
    [b"\"", word, b"\""].concat()
}

/// Runs of bytes that hold.
fn spans(text: &[u8], holds: impl Fn(&u8) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (at, byte) in text.iter().enumerate() {
        match (holds(byte), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    found.extend(start.map(|from| from..text.len()));
    found
}

/// What stands behind `:`, `,`, `[`, `{` and `-`, with all that its own brackets or quotes hold.
fn values(text: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut starts: Vec<usize> = Vec::new();
    let mut wanted = true;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'[' | b'{' => {
                starts.push(at);
                wanted = true;
            }
            b']' | b'}' => {
                found.extend(starts.pop().map(|from| from..at + 1));
                wanted = false;
            }
            b':' | b',' | b'-' => wanted = true,
            b' ' | b'\n' | b'\t' => {}
            b'"' => {
                let end = text[at + 1..].iter().position(|b| *b == b'"').map_or(text.len(), |n| at + n + 2);
                found.push(at..end);
                at = end - 1;
                wanted = false;
            }
            _ if wanted => {
                let end = text[at..].iter().position(|b| b" \n\t,:]}".contains(b)).map_or(text.len(), |n| at + n);
                found.push(at..end.max(at + 1));
                at = end.max(at + 1) - 1;
                wanted = false;
            }
            _ => {}
        }
        at += 1;
    }
    found
}
