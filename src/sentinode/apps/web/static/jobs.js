// Judging a slide: it is asked for, and how far it is stands below the slide that is shown. Only that one's job is
// followed, for a browser has few connections; it goes on in any case, also when the page is closed.

import { ask, events } from "./service.js";

const byId = (id) => document.getElementById(id);
const button = byId("judge"), bar = byId("judged"), told = byId("judged-is");
let slide = "", followed = null; // the slide that is shown, and { id, stop } of its job

const isOver = ({ state }) => state === "done" || state === "failed";

// Another slide is shown, or the same again: what was told of one before goes.
export function tellJobsOf(name) {
  if (name === slide) return;
  slide = name;
  followed?.stop.abort();
  followed = null;
  button.disabled = false;
  bar.hidden = true;
  told.textContent = "";
}

// Have the slide judged; `done` is called when its heat map is there.
export async function judge(done) {
  button.disabled = true;
  await follow(() => ask(`v1/slides/${encodeURIComponent(slide)}/heatmap`, { method: "POST" }), done);
}

// Follow the job that judges the slide, if there is one.
export async function followJob(done) {
  await follow(async () => (await ask("v1/jobs")).jobs.find((job) => job.slide === slide && !isOver(job)), done);
}

async function follow(find, done) {
  const mine = slide, stop = new AbortController();
  try {
    let job = await find();
    if (!job || slide !== mine || followed?.id === job.id) return;
    followed = { id: job.id, stop };
    tell(job);
    if (!isOver(job)) for await (const { data } of events(`v1/jobs/${encodeURIComponent(job.id)}/events`, stop.signal)) tell((job = data));
    followed = null;
    if (job.state === "done") done();
  } catch (error) {
    if (slide !== mine) return; // it was left
    followed = null;
    button.disabled = false;
    bar.hidden = true;
    told.textContent = error.message;
  }
}

function tell(job) {
  const count = (n) => n.toLocaleString("en");
  button.disabled = !isOver(job);
  bar.hidden = isOver(job);
  if (job.total) bar.value = job.done / job.total;
  else bar.removeAttribute("value");
  const words = {
    waiting: `${job.slide} waits for its turn`,
    running: `${job.slide} is being judged${job.total ? `: ${count(job.done)} of ${count(job.total)} cells` : ""}`,
    done: `${job.slide} is judged`,
    failed: `${job.slide} was not judged: ${job.problem}`,
  };
  told.textContent = [words[job.state], !isOver(job) && job.note].filter(Boolean).join("; ");
}
