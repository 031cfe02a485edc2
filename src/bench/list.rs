//! Comma lists of the command line: `512`, `1,2,4`.

use std::str::FromStr;

/// Numbers in the order given, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers(pub Vec<usize>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| {
            part.trim().parse::<usize>().map_err(|_| {
                format!("{part:?} is no whole number; give one, or some with commas between them: 1,2,4")
            })
        };
        Ok(Self(once(text.split(',').map(number).collect::<Result<Vec<_>, _>>()?)))
    }
}

/// Words in the order given, in small letters, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl FromStr for Words {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<_> = text.split(',').map(|part| part.trim().to_ascii_lowercase()).collect();
        match words.iter().any(String::is_empty) {
            true => Err("a name is missing between the commas".into()),
            false => Ok(Self(once(words))),
        }
    }
}

/// `all` without what stands in it already.
fn once<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut out = Vec::with_capacity(all.len());
    for one in all {
        if !out.contains(&one) {
            out.push(one);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!("512".parse(), Ok(Numbers(vec![512])));
        assert_eq!("4, 1,4,2".parse(), Ok(Numbers(vec![4, 1, 2])));
        for bad in ["", "1,", ",", "1,,2", "-1", "1-4", "x", "99999999999999999999999"] {
            assert!(bad.parse::<Numbers>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn words() {
        assert_eq!("CPU".parse(), Ok(Words(vec!["cpu".into()])));
        assert_eq!("avx2,scalar,AVX2".parse(), Ok(Words(vec!["avx2".into(), "scalar".into()])));
        assert!("cpu,".parse::<Words>().is_err());
    }
}
