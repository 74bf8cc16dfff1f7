// Judging a slide: it is asked for, and what comes of it is told while it goes on.

import { ask, events } from "./service.js";

const byId = (id) => document.getElementById(id);
const button = byId("judge"), bar = byId("judged"), told = byId("judged-is");
let watched = null; // the job whose events are being told

// Have a slide judged; `done(name)` is called when its heat map is there.
export async function judgeSlide(name, done) {
  button.disabled = true;
  try {
    await watch(await ask(`v1/slides/${encodeURIComponent(name)}/heatmap`, { method: "POST" }), done);
  } catch (error) {
    told.textContent = error.message;
  } finally {
    button.disabled = false;
  }
}

// Tell of the job that judges a slide, if there is one: it goes on when the page is closed.
export async function watchJobOf(name, done) {
  try {
    const { jobs } = await ask("v1/jobs");
    const job = jobs.find((each) => each.slide === name && ["waiting", "running"].includes(each.state));
    if (job && job.id !== watched) await watch(job, done);
  } catch (error) {
    told.textContent = error.message;
  }
}

async function watch(job, done) {
  watched = job.id;
  tell(job);
  try {
    if (job.state !== "done") for await (const { data } of events(`v1/jobs/${encodeURIComponent(job.id)}/events`)) tell(job = data);
  } finally {
    watched = null;
    bar.hidden = true;
  }
  if (job.state === "done") done(job.slide);
}

function tell(job) {
  const { state, slide, done, total, note, problem } = job, count = (n) => n.toLocaleString("en");
  bar.hidden = state === "done" || state === "failed";
  if (state === "running" && total) bar.value = done / total;
  else bar.removeAttribute("value");
  const words = {
    waiting: `${slide} waits for its turn`,
    running: `${slide}: ${count(done)} of ${count(total)}`,
    done: `${slide} is judged`,
    failed: `${slide} was not judged: ${problem}`,
  };
  told.textContent = [words[state], note].filter(Boolean).join("; ");
}
