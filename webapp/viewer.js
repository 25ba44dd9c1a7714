// The picture before and after, one over the other. `props.value` is null or
// {before, after: addresses, width, height: of the result in pixels}.
const find = (name) => element.querySelector(name);
const [stage, sheet, line, place, output] = [".stage", ".sheet", ".line", ".place", "output"].map(find);
const LARGEST = 4; // screen pixels for each pixel of the result
let size = null; // [width, height] of the result
let zoom = 0; // screen pixels for each pixel of the result; 0 fits the stage
let drag = null;

const fitting = () => Math.min(stage.clientWidth / size[0], (0.7 * window.innerHeight) / size[1], LARGEST);

function draw() {
  if (!size) return;
  const now = zoom || fitting();
  sheet.style.width = `${size[0] * now}px`;
  sheet.style.height = `${size[1] * now}px`;
  output.textContent = `${Math.round(100 * now)} %`;
  divide();
}

// The slider counts in the part that is seen, so that the line is never out of sight.
function divide() {
  const seen = Math.min(stage.clientWidth, sheet.clientWidth);
  sheet.style.setProperty("--place", `${stage.scrollLeft + (seen * place.value) / 100}px`);
}

// Zoom with the middle of what is seen staying where it is.
function setZoom(wanted) {
  const before = zoom || fitting();
  const middle = [stage.scrollLeft + stage.clientWidth / 2, stage.scrollTop + stage.clientHeight / 2];
  zoom = wanted <= fitting() ? 0 : Math.min(wanted, LARGEST);
  draw();
  const grown = (zoom || fitting()) / before;
  stage.scrollLeft = middle[0] * grown - stage.clientWidth / 2;
  stage.scrollTop = middle[1] * grown - stage.clientHeight / 2;
  divide();
}

const STEPS = {
  in: () => setZoom((zoom || fitting()) * 1.5),
  out: () => setZoom((zoom || fitting()) / 1.5),
  fit: () => setZoom(0),
  full: () => setZoom(1),
};

function show() {
  const value = props.value;
  size = value ? [value.width, value.height] : null;
  if (!value) return;
  find(".before").src = value.before;
  find(".after").src = value.after;
  place.value = 50;
  zoom = 0;
  draw();
  stage.scrollIntoView({ block: "nearest", behavior: "smooth" });
}

element.addEventListener("click", (event) => STEPS[event.target.dataset.zoom]?.());
place.addEventListener("input", divide);
stage.addEventListener("scroll", divide);
stage.addEventListener("keydown", (event) => {
  const step = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" }[event.key];
  if (step && !event.ctrlKey && !event.metaKey) STEPS[step]();
});
stage.addEventListener("wheel", (event) => {
  if (!event.ctrlKey) return; // without it the page, or the picture, scrolls
  event.preventDefault();
  setZoom((zoom || fitting()) * (event.deltaY < 0 ? 1.2 : 1 / 1.2));
}, { passive: false });
stage.addEventListener("pointerdown", (event) => {
  const onLine = event.target === line;
  if (!onLine && event.pointerType !== "mouse") return; // a finger scrolls
  drag = { onLine, x: event.clientX, y: event.clientY, left: stage.scrollLeft, top: stage.scrollTop };
  stage.setPointerCapture(event.pointerId);
});
stage.addEventListener("pointermove", (event) => {
  if (!drag) return;
  if (drag.onLine) {
    const edge = sheet.getBoundingClientRect().left + stage.scrollLeft;
    place.value = (100 * (event.clientX - edge)) / Math.min(stage.clientWidth, sheet.clientWidth);
    divide();
  } else {
    stage.scrollLeft = drag.left + drag.x - event.clientX;
    stage.scrollTop = drag.top + drag.y - event.clientY;
  }
});
for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { drag = null; });
new ResizeObserver(draw).observe(stage);
watch("value", show);
show();
