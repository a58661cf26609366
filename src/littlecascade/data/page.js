"use strict";

const STEP = 120; // cards that are made at a time, whenever the end of the page comes into sight
const byId = (id) => document.getElementById(id);
const report = JSON.parse(byId("report").textContent);
const thumbnails = byId("thumbnails").textContent.split("\n").slice(1);
const collator = new Intl.Collator("en", { numeric: true });

const samples = report.samples.map(([name, size, captions, tokens, problems], index) => ({
  name, size, captions, tokens, problems,
  words: `${name}\n${captions}`.toLowerCase(),
  thumbnail: thumbnails[index],
}));
samples.sort((one, other) => collator.compare(one.name, other.name));

let chosen = [];
let shown = 0;

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function card(sample) {
  const figure = document.createElement("figure");
  const frame = element("div", sample.thumbnail ? "" : "no picture");
  if (sample.thumbnail) {
    const image = document.createElement("img");
    image.src = `data:image/jpeg;base64,${sample.thumbnail}`;
    image.alt = sample.captions;
    frame.append(image);
  }
  const lengths = sample.tokens.length ? `${sample.tokens.join(", ")} tokens` : "";
  const caption = document.createElement("figcaption");
  caption.append(
    element("div", sample.name),
    element("div", [sample.size, lengths].filter(Boolean).join(", "), "size"),
    element("div", sample.captions),
    ...sample.problems.map(([kind, detail]) => element("div", detail ? `${kind}: ${detail}` : kind, "problem")),
  );
  figure.append(frame, caption);
  return figure;
}

function more() {
  byId("cards").append(...chosen.slice(shown, shown + STEP).map(card));
  shown = Math.min(shown + STEP, chosen.length);
}

function select() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = byId("kind").value;
  const fits = ({ problems }) =>
    kind === "all" || (kind === "problems" ? problems.length > 0 : problems.some(([name]) => name === kind));
  chosen = samples.filter((sample) => fits(sample) && words.every((word) => sample.words.includes(word)));
  byId("count").textContent = `${chosen.length} of ${samples.length}`;
  byId("cards").replaceChildren();
  shown = 0;
  more();
}

function offer(value, label) {
  const option = element("option", label);
  option.value = value;
  byId("kind").append(option);
}

const counts = new Map();
for (const { problems } of samples) {
  for (const kind of new Set(problems.map(([name]) => name))) counts.set(kind, (counts.get(kind) ?? 0) + 1);
}
offer("all", "all pictures");
offer("problems", `with problems (${samples.filter(({ problems }) => problems.length).length})`);
for (const [kind, count] of counts) offer(kind, `${kind} (${count})`);

if (report.members.length) {
  const members = byId("members");
  members.hidden = false;
  members.querySelector("summary").textContent = `${report.members.length} other findings`;
  const lines = report.members.map(([kind, name, detail]) => element("li", `${name}: ${kind}, ${detail}`));
  members.querySelector("ul").append(...lines);
}

byId("search").addEventListener("input", select);
byId("kind").addEventListener("change", select);
select();
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) more();
}, { rootMargin: "1000px" }).observe(byId("end"));
