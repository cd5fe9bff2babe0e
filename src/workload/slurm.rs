//! Batch jobs of Slurm and their steps.
//!
//! Slurm's cgroup/v1 makes `slurm/uid_<uid>/job_<job>/step_<step>/task_<n>` (`slurm_<node>` if several slurmd share a
//! machine), cgroup/v2 makes `slurmstepd.scope/job_<job>/step_<step>/user/task_<n>` (or `<node>_slurmstepd.scope`).
//! Steps are numbered, or named `batch`, `extern`, `interactive`. A job is what its steps add up to; tasks and the
//! split into `user` and `slurm` are inside the step. `job_7` alone is a name that anybody may choose, so what lies
//! above must be Slurm's, unless nothing is to be seen above.

use super::systemd::{ancestors, is_number, upwards};
use super::{Identity, Kind, Verdict};
use crate::semconv::attr;

/// Says whether a job or one of its steps begins at `path`; `Inside` for everything below a job that is no step.
#[must_use]
pub fn classify(path: &str) -> Verdict {
    if let Some(identity) = job(path).map(job_identity).or_else(|| step(path)) {
        return Verdict::Begins(vec![identity]);
    }
    if ancestors(path).any(|above| job(above).is_some()) { Verdict::Inside } else { Verdict::Unknown }
}

/// The id of the job whose directory `path` is.
fn job(path: &str) -> Option<&str> {
    let mut up = upwards(path);
    let job = up.next()?.strip_prefix("job_").filter(|job| is_number(job))?;
    let slurms = match up.next() {
        None => true,
        Some(above) if above.strip_prefix("uid_").is_some_and(is_number) => {
            up.next().is_none_or(|root| root == "slurm" || root.starts_with("slurm_"))
        }
        Some(above) => above == "slurmstepd.scope" || above.ends_with("_slurmstepd.scope"),
    };
    slurms.then_some(job)
}

fn job_identity(job: &str) -> Identity {
    Identity::new(Kind::Job, job, job).with(attr::JOB_ID, job)
}

fn step(path: &str) -> Option<Identity> {
    let step = upwards(path).next()?.strip_prefix("step_").filter(|step| !step.is_empty())?;
    let job = job(ancestors(path).next()?)?;
    // People write a step with a dot: that is how squeue and sacct print it.
    let identity = Identity::new(Kind::Job, &format!("{job}/{step}"), &format!("{job}.{step}"));
    Some(identity.with(attr::JOB_ID, job).with(attr::JOB_STEP, step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_and_steps() {
        for (path, id, name, step) in [
            ("/slurm/uid_1000/job_123", "job:123", "123", None),
            ("/slurm/uid_1000/job_123/step_0", "job:123/0", "123.0", Some("0")),
            ("/slurm_node7/uid_1000/job_123/step_extern", "job:123/extern", "123.extern", Some("extern")),
            ("/system.slice/slurmstepd.scope/job_123", "job:123", "123", None),
            ("/system.slice/slurmstepd.scope/job_123/step_batch", "job:123/batch", "123.batch", Some("batch")),
            ("/system.slice/node7_slurmstepd.scope/job_123/step_0+1", "job:123/0+1", "123.0+1", Some("0+1")),
            ("/slurmstepd.scope/job_123", "job:123", "123", None),
            ("/uid_0/job_123", "job:123", "123", None),
            ("/job_123", "job:123", "123", None),
            ("/job_123/step_interactive", "job:123/interactive", "123.interactive", Some("interactive")),
            ("/job_123/step_a b ü", "job:123/a b ü", "123.a b ü", Some("a b ü")),
            ("//slurm//uid_1//job_123//step_0/", "job:123/0", "123.0", Some("0")),
        ] {
            let text = id.strip_prefix("job:").unwrap_or_default();
            let expected = Identity::new(Kind::Job, text, name).with(attr::JOB_ID, "123");
            let expected = if let Some(step) = step { expected.with(attr::JOB_STEP, step) } else { expected };
            assert_eq!(expected.id.to_string(), id);
            assert_eq!(classify(path), Verdict::Begins(vec![expected]), "{path}");
        }
    }

    #[test]
    fn tasks_are_inside() {
        for path in [
            "/slurm/uid_1000/job_123/step_0/task_0",
            "/slurm/uid_1000/job_123/step_",
            "/system.slice/slurmstepd.scope/job_123/step_batch/user",
            "/system.slice/slurmstepd.scope/job_123/step_batch/slurm",
            "/system.slice/slurmstepd.scope/job_123/step_batch/user/task_0",
            "/system.slice/slurmstepd.scope/job_123/step_batch/user/step_1",
        ] {
            assert_eq!(classify(path), Verdict::Inside, "{path}");
        }
    }

    #[test]
    fn everything_else_is_unknown() {
        for path in [
            "",
            "/",
            "/../b",
            "/slurm",
            "/slurm/uid_1000",
            "/slurm/system",
            "/system.slice/slurmstepd.scope",
            "/system.slice/slurmstepd.scope/system",
            "/foo/job_123",
            "/foo/job_123/step_0",
            "/foo/uid_1000/job_123",
            "/slurm/uid_x/job_123",
            "/slurm/uid_1000/job_",
            "/slurm/uid_1000/job_12a",
            "/slurm/uid_1000/job_١",
            "/slurm/uid_1000/step_0",
            "/step_0",
        ] {
            assert_eq!(classify(path), Verdict::Unknown, "{path}");
        }
        assert_eq!(classify(&"/step_0".repeat(20_000)), Verdict::Unknown);
    }
}
