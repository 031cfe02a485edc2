//! `pumice-train sqa`: ScienceQA's folder made rows to learn from, and answers scored as the paper's table does.

use std::{io::Write, path::PathBuf, process::ExitCode};

use pumice_train::{
    Error, Result,
    data::scienceqa::{self, Form, Score},
    recipe::{Preset, Recipe, Stage},
};

use super::align;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: align::Args,
    /// Train nothing; score these answers to the problems of --data: JSONL with question_id (or id) and text.
    #[arg(long, value_name = "FILE", help_heading = "Score", conflicts_with_all = ["show_config", "synthetic"])]
    score: Option<PathBuf>,
    /// With --score: the split that the answers are to.
    #[arg(long, value_name = "NAME", default_value = "test", requires = "score", help_heading = "Score")]
    split: String,
    /// With --score: as JSON.
    #[arg(long, requires = "score", help_heading = "Score")]
    score_json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(answers) = args.score else { return align::run(Stage::Sqa, args.run) };
    let layered = args.run.layered(Stage::Sqa)?;
    let folder = layered.recipe.data.as_deref().filter(|data| data.is_dir()).ok_or_else(|| {
        Error::Config(
            "--score needs --data, ScienceQA's folder with problems.json and pid_splits.json".into(),
        )
    })?;
    let problems = scienceqa::read(folder, &args.split)?;
    let score = scienceqa::score(&problems, &scienceqa::answers(&answers)?);
    let text = if args.score_json { format!("{:#}\n", serde_json::to_value(score)?) } else { table(&score) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The paper's columns, in percent, with the numbers that they come from.
fn table(score: &Score) -> String {
    let columns = [
        ("natural science", score.nat),
        ("social science", score.soc),
        ("language science", score.lan),
        ("text context", score.txt),
        ("picture context", score.img),
        ("no context", score.no),
        ("grades 1-6", score.g1_6),
        ("grades 7-12", score.g7_12),
        ("all", score.all),
    ];
    let line = |(name, share): (&str, scienceqa::Share)| match share.of {
        0 => format!("{name:<17}      -\n"),
        _ => format!("{name:<17} {:6.2} %  {} of {}\n", share.percent(), share.right, share.of),
    };
    let lines: String = columns.into_iter().map(line).collect();
    format!("{lines}{} answers are missing or name no choice; they count as wrong\n", score.failed)
}

/// Where `data` is ScienceQA's folder: its training split as a file of rows in `to`, in the form that the preset's scripts train (QCM-LEPA in the
/// first release, QCM-LEA since), and the pictures' folder unless one is set. Ranks write the same file each, whole.
///
/// # Errors
/// The folder is not as described, or the rows cannot be written.
pub fn rows(recipe: &mut Recipe, preset: Preset, to: &std::path::Path) -> Result<()> {
    let Some(folder) = recipe.data.clone().filter(|data| data.is_dir()) else { return Ok(()) };
    let form = if preset.is_v0() { Form::Lepa } else { Form::Lea };
    let problems = scienceqa::read(&folder, "train")?;
    std::fs::create_dir_all(to).map_err(Error::io(to))?;
    let file = to.join("scienceqa-train.json");
    let temporary = tempfile::NamedTempFile::new_in(to).map_err(Error::io(to))?;
    scienceqa::write(&problems, form, temporary.path())?;
    temporary.persist(&file).map_err(|e| Error::io(&file)(e.error))?;
    recipe.data = Some(file);
    recipe.image_folder.get_or_insert_with(|| folder.join("images").join("train"));
    Ok(())
}
