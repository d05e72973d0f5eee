# mini tuned with seed 7, by bash_scripts/mini/seeds.sh
inherit=mini
model_path=checkpoints/mini/seed7/model
reference_model=checkpoints/mini/seed7/steps/step-000
training_steps=checkpoints/mini/seed7/steps
result_path=results/mini/seed7
