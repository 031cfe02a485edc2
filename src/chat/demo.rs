//! The demo model: where it lies, what it knows, and the pictures that it is shown when none is named.
//!
//! The file stays a file, mapped like any other model, rather than part of the program: so the binary keeps its size, and what
//! answers here is what `-m` would open.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::bail;

/// The model's file name.
const MODEL: &str = "pumice-demo-q4_k_m.gguf";

/// Where model and pictures lie, below the program's own folder or the source tree's.
const FOLDER: &str = "models/demo";

/// Endings of the pictures that are offered.
const PICTURES: [&str; 3] = ["png", "jpg", "jpeg"];

/// What the model can be asked; people should not have to find out by its mistakes.
const KNOWS: &str = "demo model: knows pictures of 1-6 pictograms (100 kinds of animals, food, vehicles …): \
    what, how many, where, is there a …; nothing else, and no photographs";

/// The model that answers where the command line names none, and its pictures.
#[derive(Debug)]
pub struct Demo {
    /// The GGUF file.
    pub model: PathBuf,
    /// The pictures beside it, by name.
    pub pictures: Vec<PathBuf>,
}

impl Demo {
    /// Looks beside the program, then in the source tree that it was built in.
    ///
    /// # Errors
    /// It is in neither place.
    pub fn find() -> anyhow::Result<Self> {
        let program = env::current_exe().ok();
        let beside = program.as_deref().and_then(Path::parent).map(|folder| folder.join(FOLDER));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
        Self::find_in(&beside.into_iter().chain([source]).collect::<Vec<_>>())
    }

    fn find_in(folders: &[PathBuf]) -> anyhow::Result<Self> {
        let Some(folder) = folders.iter().find(|folder| folder.join(MODEL).is_file()) else {
            let places: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
            bail!(
                "no model: give -m FILE. The demo model {MODEL} was looked for in {}; copy Pumice's folder {FOLDER} there, \
                 or try the program with random weights: --synthetic tiny",
                places.join(" and in ")
            );
        };
        let is_picture = |path: &PathBuf| {
            let end = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            PICTURES.iter().any(|known| end.eq_ignore_ascii_case(known))
        };
        let mut pictures: Vec<PathBuf> =
            folder.read_dir()?.filter_map(|entry| Some(entry.ok()?.path())).filter(is_picture).collect();
        pictures.sort();
        Ok(Self { model: folder.join(MODEL), pictures })
    }

    /// What a person should know before asking.
    pub fn introduction(&self) -> &'static str {
        KNOWS
    }

    /// The pictures as a list with numbers; one line each.
    pub fn list(&self) -> String {
        let line = |(i, path): (usize, &PathBuf)| format!("  {} {}", i + 1, super::open::file_name(path));
        self.pictures.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The picture that `text` means: the number of one in the list, or any path.
    pub fn picture(&self, text: &Path) -> PathBuf {
        let number = text.to_str().and_then(|t| t.trim().parse::<usize>().ok());
        let listed = number.and_then(|n| n.checked_sub(1)).and_then(|i| self.pictures.get(i));
        listed.map_or_else(|| text.to_path_buf(), Clone::clone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_the_model_is_taken_and_its_pictures_in_order() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for name in ["b.png", "a.JPG", "README.md", MODEL] {
            std::fs::write(full.path().join(name), "").unwrap();
        }
        let folders = [empty.path().to_path_buf(), full.path().to_path_buf()];
        let demo = Demo::find_in(&folders).unwrap();
        assert_eq!(demo.model, full.path().join(MODEL));
        assert_eq!(demo.pictures, [full.path().join("a.JPG"), full.path().join("b.png")]);
        assert_eq!(demo.list(), "  1 a.JPG\n  2 b.png");
        assert_eq!(demo.picture(Path::new("2")), full.path().join("b.png"));
        for other in ["0", "3", "cat.png"] {
            assert_eq!(demo.picture(Path::new(other)), Path::new(other));
        }
    }

    #[test]
    fn a_model_that_is_nowhere_is_told_with_the_places_and_the_way_out() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [one.path().to_path_buf(), two.path().to_path_buf()];
        let message = Demo::find_in(&folders).unwrap_err().to_string();
        for words in [MODEL, "-m FILE", "--synthetic tiny", &folders[0].display().to_string()] {
            assert!(message.contains(words), "no {words:?} in: {message}");
        }
        assert!(message.contains(&folders[1].display().to_string()), "{message}");
    }
}
